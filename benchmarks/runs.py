"""Runs of `ptq quantize` in processes of their own: what the benchmarks have in common."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from importlib import metadata
from pathlib import Path

import click

from ptq.evaluate import Accuracy
from ptq.report import Report, from_json

MEASURING = ("audit", "evaluate")
"""Stages that are no part of quantization."""


@dataclass(frozen=True)
class Task:
    """A model with its data."""

    model: Path
    data: Path
    evaluation: Path


@dataclass(frozen=True)
class Run:
    """What a command reported, how long it took, and the most memory that it held."""

    report: Report
    seconds: float
    peak_bytes: int

    @property
    def quantizing(self) -> float:
        """Seconds of it, without those of measuring what came out."""
        return sum(seconds for stage, seconds in self.report.stages.items() if stage not in MEASURING)

    @property
    def accuracy(self) -> Accuracy:
        """There is one, as there was data to evaluate on."""
        if self.report.accuracy is None:
            raise click.ClickException("the report has no accuracy; give --eval")
        return self.report.accuracy


def scored(accuracy: Accuracy, name: str) -> tuple[float | None, float | None]:
    """A score of the float model and of the quantized one; None where there is none."""
    score = accuracy.score(name)
    return (None, None) if score is None else (score.reference, score.value)


class FailedError(click.ClickException):
    """A command that did not write a file: why, as it said, and its exit code."""

    def __init__(self, what: str, why: str, code: int) -> None:
        super().__init__(f"{what}: {why}")
        self.why, self.code = why, code


class LateError(click.ClickException):
    """A command that was ended as it took longer than it was given."""


def quantize(task: Task, options: Sequence[str], output: Path, limit: float | None = None) -> Run:
    """Run a command, for `limit` seconds at most.

    Raises:
        FailedError: it did not exit with 0.
        LateError: it did not end in time.

    """
    what, report = f"{task.model.name}, {' '.join(options)}", output.with_suffix(".json")
    command = [sys.executable, "-m", "ptq", "quantize", str(task.model)]
    data = ["--data", str(task.data), "--eval", str(task.evaluation), "-o", str(output), "--json", str(report)]
    start = time.perf_counter()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen([*command, *options, *data], stdout=subprocess.DEVNULL, stderr=errors)
        late = threading.Event()
        timer = threading.Timer(threading.TIMEOUT_MAX if limit is None else limit, _end, (process, late))
        timer.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        finally:
            timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip().splitlines()
    if late.is_set():
        raise LateError(f"{what}: over {limit:g} s")
    if process.returncode != 0:
        why = said[-1] if said else f"exit code {process.returncode}"
        raise FailedError(what, why, process.returncode)
    return Run(from_json(report.read_text()), seconds, usage.ru_maxrss * 1024)


def _end(process: subprocess.Popen[bytes], late: threading.Event) -> None:
    late.set()
    process.kill()


def headline() -> str:
    """The date, the versions and the machine, which belong to every figure."""
    names = ("ptq-toolkit", "onnxruntime", "torch")
    versions = (f"{name} {metadata.version(name)}" for name in names)
    return ", ".join([date.today().isoformat(), *versions, platform.machine()])


def head(columns: Sequence[str]) -> str:
    """The first two lines of a table."""
    return f"{row(columns)}\n{'|---' * len(columns)}|"


def row(cells: Iterable[str]) -> str:
    """A line of a table."""
    return f"| {' | '.join(cells)} |"
