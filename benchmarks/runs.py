"""Runs of `ptq quantize` in processes of their own: what the benchmarks have in common."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from importlib import metadata
from pathlib import Path

import click

from ptq.report import AccuracyReport, Report, from_json


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
    def accuracy(self) -> AccuracyReport:
        """There is one, as there was data to evaluate on."""
        if self.report.accuracy is None:
            raise click.ClickException("the report has no accuracy; give --eval")
        return self.report.accuracy


class FailedError(click.ClickException):
    """A command that did not write a file; the message is its own."""


def quantize(task: Task, options: Sequence[str], output: Path) -> Run:
    """Run a command.

    Raises:
        FailedError: it did not exit with 0.

    """
    report = output.with_suffix(".json")
    command = [sys.executable, "-m", "ptq", "quantize", str(task.model)]
    data = ["--data", str(task.data), "--eval", str(task.evaluation), "-o", str(output), "--json", str(report)]
    start = time.perf_counter()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen([*command, *options, *data], stdout=subprocess.DEVNULL, stderr=errors)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        errors.seek(0)
        said = errors.read().decode(errors="replace").strip().splitlines()
    if process.returncode != 0:
        why = said[-1] if said else f"exit code {process.returncode}"
        raise FailedError(f"{task.model.name}, {' '.join(options)}: {why}")
    return Run(from_json(report.read_text()), seconds, usage.ru_maxrss * 1024)


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
