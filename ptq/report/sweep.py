"""A grid of recipes and what each came to, as data and on the terminal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from ptq.report.comparing import render_comparison
from ptq.report.comparison import ComparedFile, Comparison
from ptq.report.console import print_line
from ptq.report.pareto import knee

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
        """From where on more bytes buy less; None where the front has no bend."""
        return self._knee(lambda file: float(file.bytes))

    @property
    def knee_by_latency(self) -> SweptPoint | None:
        """From where on more time buys less, by the first timing."""
        return self._knee(lambda file: file.timings[0].ratio if file.timings else None)

    def _knee(self, cost: Callable[[ComparedFile], float | None]) -> SweptPoint | None:
        gain = self.comparison.gain
        if gain is None:
            return None
        sign = 1 if gain.rising else -1
        placed = [
            (file, (at, sign * value))
            for file in self.comparison.files
            if (at := cost(file)) is not None and (value := gain.of.get(file.path)) is not None
        ]
        index = knee([place for _, place in placed])
        return None if index is None else self.of(placed[index][0])

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
    for by, bend in (("size", found.knee_by_size), ("latency", found.knee_by_latency)):
        if bend is not None:
            print_line(console, f"knee     by {by}: {bend.name}{f': {bend.command}' if bend.command else ''}")


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
