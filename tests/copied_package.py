"""A copy of the package in a folder, with a model, that a file can be added to and commands run in."""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from command import Run
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


def run(folder: Path, commands: Sequence[str]) -> dict[str, Run]:
    """What commands of the package in a folder come to, one after the other in one process."""
    process = subprocess.run(
        [sys.executable, "-W", "error", "-m", "in_turn"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
        input=json.dumps([command.split() for command in commands]),
        capture_output=True,
        text=True,
        check=False,
    )
    assert process.returncode == 0, process.stderr
    return {command: Run(*found) for command, found in zip(commands, json.loads(process.stdout), strict=True)}
