"""Where a file comes from: versions, options and hashes, nothing that differs between equal runs."""

from __future__ import annotations

import hashlib
import json
import os
import platform
from importlib import metadata
from pathlib import Path

import ptq
from calibration.dataset import Dataset
from ptq.model.capture import is_onnx
from ptq.model.wire import data_files
from ptq.recipe import Recipe

MANIFEST = "ptq.manifest"
"""The key of a file's metadata that the manifest is under."""

_PROCESSOR = Path("/proc/cpuinfo")
_VNNI = frozenset({"avx512_vnni", "avx_vnni"})
_PACKAGES = ("torch", "onnx", "onnxruntime", "numpy")


def versions() -> dict[str, str]:
    """The versions of ptq and of what it computes with."""
    return {"ptq": ptq.__version__, **{name: metadata.version(name) for name in _PACKAGES}}


def machine() -> str:
    """The processor, how many cores of it this process may use, and whether it has VNNI, as far as the system tells."""
    flags = set(_told("flags").split())
    vnni = "" if not flags else ", with VNNI" if flags & _VNNI else ", without VNNI"
    return f"{processor()}, {cores()} core{'s' * (cores() > 1)}{vnni}"


def processor() -> str:
    """The name of the processor, or of its kind."""
    return _told("model name") or platform.machine()


def _told(field: str) -> str:
    """What the system says of the first core, nothing where it does not."""
    lines = _PROCESSOR.read_text(encoding="utf-8").splitlines() if _PROCESSOR.exists() else []
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(field)), "")


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def digest(path: Path) -> str:
    """SHA-256 of a file; of a model with weights in others, of it and then those by name, one behind another."""
    found = hashlib.sha256()
    for each in (path, *(sorted(data_files(path)) if is_onnx(path) else ())):
        with each.open("rb") as file:
            hashlib.file_digest(file, lambda: found)
    return found.hexdigest()


def manifest(source: object, recipe: Recipe, data: Dataset | None) -> str:
    """The manifest as JSON."""
    return json.dumps(
        {
            "schema": 1,
            "versions": versions(),
            "options": recipe.as_options(),
            "model_sha256": digest(source) if isinstance(source, Path) else None,
            "data_sha256": None if data is None else data.fingerprint(),
        },
        sort_keys=True,
    )
