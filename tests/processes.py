"""Runs of the command line in processes of their own, which begin with everything imported."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

_IMPORTED = [
    "cli",
    "ptq.pipeline",
    "ptq.report",
    "onnxscript.optimizer",
    "onnxscript.version_converter",
    "processes",
    "ptq.distributed",
]
os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # read when torch is loaded
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(_IMPORTED)


def _run(arguments: Sequence[str], cache: str, told: str, environment: Mapping[str, str]) -> None:
    from cli import main

    os.environ |= {"PTQ_CACHE": cache, **environment}
    sys.path.insert(0, str(Path(told).parent))
    os.setpgid(0, 0)  # Ctrl-C of a terminal reaches a group
    with Path(told).open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
        main(arguments)


def started(
    arguments: Sequence[object], cache: Path, told: Path, environment: Mapping[str, str] | None = None
) -> BaseProcess:
    """A run that is going on; what it says goes to a file, and modules beside that are found."""
    given = ([str(each) for each in arguments], str(cache), str(told), dict(environment or {}))
    process = _CONTEXT.Process(target=_run, args=given)
    process.start()
    return process
