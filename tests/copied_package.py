"""A copy of the package in a folder, with a model, that a file can be added to and commands run in."""

from __future__ import annotations

import importlib
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
from small_folder import write_model

ROOT = Path(__file__).parents[1]


class Page:
    """The page of an example of one file: the file as it shows it, and the commands."""

    def __init__(self, example: str) -> None:
        self.folder = ROOT / "examples" / example
        text = (self.folder / "README.md").read_text(encoding="utf-8")
        (self.snippet,) = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
        self.commands: list[str] = re.findall(r"^    ptq (.*)$", text, re.MULTILINE)


def copy_package(folder: Path, data: np.ndarray) -> None:
    """Put the package into a folder, with `model.onnx` and data for it in `calib.npz`."""
    for name in ("ptq", "cli", "calibration"):
        origin = Path(str(importlib.import_module(name).__file__)).parent
        shutil.copytree(origin, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    write_model(folder / "model.onnx")
    np.savez(folder / "calib.npz", x=data.astype(np.float32))


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A command of the package in a folder."""
    command = [sys.executable, "-W", "error", "-m", "ptq", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
