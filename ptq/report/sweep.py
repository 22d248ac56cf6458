"""A grid of recipes and what each came to, as data and on the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ptq.report.comparing import render_comparison
from ptq.report.comparison import ComparedFile, Comparison
from ptq.report.console import print_line

SCHEMA = 1


@dataclass(frozen=True)
class SweptPoint:
    """A recipe of the grid: the file that it made, the command line that makes it again, or why there is none.

    `kept` says that the file was there already; `seconds` are those of making it.
    """

    name: str
    file: str | None = None
    command: str | None = None
    refused: str | None = None
    kept: bool = False
    seconds: float = 0.0


@dataclass(frozen=True)
class Sweep:
    """What a sweep came to: the files beside the float model, and the points of the grid."""

    comparison: Comparison
    points: tuple[SweptPoint, ...]
    schema: int = SCHEMA

    @property
    def knee_by_size(self) -> SweptPoint | None:
        """The point of the file from where on more bytes bring less; None where the front has no bend."""
        return self._point(self.comparison.knee_by_size)

    @property
    def knee_by_latency(self) -> SweptPoint | None:
        """That from where on more time brings less, by the first timing."""
        return self._point(self.comparison.knee_by_latency)

    def _point(self, file: ComparedFile | None) -> SweptPoint | None:
        return None if file is None else self.of(file)

    def of(self, file: ComparedFile) -> SweptPoint:
        """The point that a file is from."""
        return next(point for point in self.points if point.file == Path(file.path).name)


def render_sweep(found: Sweep, console: Console) -> None:
    """Print a sweep: what could not be, the comparison, and the knees with the command lines that make them."""
    kept = sum(point.kept for point in found.points)
    made = [point for point in found.points if point.file and not point.kept and not point.refused]
    seconds = sum(point.seconds for point in made)
    print_line(console, f"sweep    {len(made)} files made in {seconds:.1f} s, {kept} were there already")
    _refused(found, console)
    render_comparison(found.comparison, console)
    knees = {"size": found.comparison.knee_by_size, "latency": found.comparison.knee_by_latency}
    for by, file in knees.items():
        if file is None:
            print_line(console, f"knee     none by {by}: no file stands out between the cheapest and the most exact")
            continue
        point = found.of(file)
        warned = "" if file.verdict == "PASS" else f" ({file.verdict})"
        print_line(console, f"knee     by {by}: {point.name}{warned}{f': {point.command}' if point.command else ''}")


def render_tried(found: Sweep, console: Console) -> None:
    """Print what was tried: what could not be, the comparison, and the command line of each."""
    _refused(found, console)
    render_comparison(found.comparison, console)
    for point in found.points:
        if point.command and not point.refused:
            print_line(console, f"tried    {point.name}: {point.command}")


def _refused(found: Sweep, console: Console) -> None:
    for point in found.points:
        if point.refused:
            print_line(console, f"refused  {point.name}: {point.refused}")
