"""What an import costs: the command line answers without torch, number formats never need it."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

HEAVY = {"torch", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "scipy"}


def run(*arguments: str) -> tuple[str, set[str]]:
    """What `python arguments` prints, and the top-level packages that it imported."""
    environment = {**os.environ, "PYTHONWARNINGS": "error"}
    command = [sys.executable, "-X", "importtime", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    timings, complaints = [], []
    for line in done.stderr.splitlines():
        (timings if line.startswith("import time:") else complaints).append(line)
    if done.returncode != 0:
        pytest.fail("\n".join([*command, *complaints]))
    return done.stdout, {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in timings}


def test_the_probe_sees_imports() -> None:
    _, imported = run("-c", "import json.decoder, numpy")
    assert {"json", "numpy"} <= imported
    assert not HEAVY & imported


@pytest.mark.parametrize("module", ["ptq", "ptq.errors", "cli", "calibration"])
def test_importing_is_cheap(module: str) -> None:
    _, imported = run("-c", f"import {module}")
    assert module.partition(".")[0] in imported
    assert not HEAVY & imported


@pytest.mark.parametrize(
    "command",
    [["-m", "ptq", "--help"], ["-m", "ptq", "quantize", "--help"], ["-c", "import cli; cli.main(['--help'])"]],
    ids=" ".join,
)
def test_help_is_cheap(command: list[str]) -> None:
    printed, imported = run(*command)
    assert "Usage:" in printed
    assert not HEAVY & imported


@pytest.mark.parametrize("arguments", [[], ["--format", "json"], ["show", "fp4_e2m1"], ["--help"]], ids=" ".join)
def test_listing_formats_is_cheap(arguments: list[str]) -> None:
    printed, imported = run("-m", "ptq", "formats", *arguments)
    assert "fp4_e2m1" in printed or "Usage:" in printed
    assert not (HEAVY | {"numpy"}) & imported


@pytest.mark.parametrize("arguments", [[], ["--format", "json"], ["show", "int4"], ["--help"]], ids=" ".join)
def test_listing_recipes_is_cheap(arguments: list[str]) -> None:
    printed, imported = run("-m", "ptq", "recipes", *arguments)
    assert "int4" in printed or "Usage:" in printed
    assert not (HEAVY | {"numpy"}) & imported


@pytest.mark.parametrize("module", ["ptq.formats", "ptq.presets", "ptq.support"])
def test_formats_need_no_torch(module: str) -> None:
    _, imported = run("-c", f"import {module}")
    assert not (HEAVY | {"numpy"}) & imported
