"""Which layers cost what, and what was tried against it, as data and on the terminal."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptq.evaluate import Accuracy
from ptq.report.console import print_line, print_whole
from ptq.report.sweep import Sweep, render_tried

SCHEMA = 1
AS_IT_IS = "as-it-is"
"""The name of what is diagnosed among what was tried."""

_SHOWN = 15
_ABOUT = 1.2
"""Up to this part of its bytes a file is about as large as another."""


@dataclass(frozen=True)
class Blame:
    """What one layer does to the output: `alone`, as the only quantized one, and `without`, as the only float one.

    Milliseconds are those of its kernels inside the network, in float and as quantized; None where it cannot be told.
    """

    site: str
    op: str
    format: str
    float_bytes: int
    bytes: int
    alone: Accuracy
    without: Accuracy
    float_ms: float | None
    ms: float | None


@dataclass(frozen=True)
class Remedy:
    """Something that was tried and helped: by how much, and for how many bytes more."""

    name: str
    gained_db: float
    more_bytes: int

    def describe(self) -> str:
        """In a few words."""
        bytes_ = f"{abs(self.more_bytes) / 1e6:.2f} MB {'more' if self.more_bytes >= 0 else 'less'}"
        return f"{self.name}, {self.gained_db:+.1f} dB for {bytes_}"


@dataclass(frozen=True)
class Diagnosis:
    """Layers, those first that cost most alone; the whole network; and proposals, each of which was tried."""

    title: str
    whole: Accuracy
    layers: tuple[Blame, ...]
    tried: Sweep
    schema: int = SCHEMA

    @property
    def remedies(self) -> tuple[Remedy, ...]:
        """What brought the output closest to FP32's: of files about as large as it is, and of all; none if nothing."""
        closeness = self.tried.comparison.closeness.of
        files = {Path(file.path).stem: file for file in self.tried.comparison.files if not file.failure}
        now = files.get(AS_IT_IS)
        before = None if now is None else closeness.get(now.path)
        if now is None or before is None:
            return ()
        found: list[Remedy] = []
        for most in (_ABOUT * now.bytes, math.inf):
            gains = {
                name: value - before
                for name, file in files.items()
                if file.bytes <= most and (value := closeness.get(file.path)) is not None and value > before
            }
            best = max(gains, key=lambda name: gains[name], default=None)
            if best is not None and best not in {each.name for each in found}:
                found.append(Remedy(best, gains[best], files[best].bytes - now.bytes))
        return tuple(found)


def render_diagnosis(found: Diagnosis, console: Console) -> None:
    """Print a diagnosis: the layers that cost most, then what was tried."""
    whole = _decibels(found.whole)
    samples = f"{found.whole.samples} sample{'s' * (found.whole.samples > 1)}"
    print_line(console, f"quantized by {found.title}: {whole or 'equal to FP32'}, on {samples}")
    print_line(
        console,
        "each layer alone: as the only quantized one; float: as the only float one, with what is gained by that",
    )
    print_whole(console, _table(found))
    if len(found.layers) > _SHOWN:
        print_line(console, f"         and {len(found.layers) - _SHOWN} layers that cost less; --format json has all")
    render_tried(found.tried, console)
    for remedy in found.remedies:
        print_line(console, f"helps    {remedy.describe()}")
    if not found.remedies:
        print_line(console, "helps    nothing of what was tried")


def _table(found: Diagnosis) -> Table:
    names = [score.name for score in found.whole.scores if score.decides]
    right = (
        "alone",
        *(f"{name} lost" for name in names),
        "float",
        "gain",
        "for MB",
        "ms",
        "in float",
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("layer", "format", *right):
        table.add_column(Text(title), justify="right" if title in right else "left", no_wrap=True)
    for layer in found.layers[:_SHOWN]:
        table.add_row(
            Text(layer.site),
            Text(layer.format),
            _decibels(layer.alone) or "equal",
            *(_loss(layer.alone, name) for name in names),
            _decibels(layer.without) or "equal",
            _gain(layer.without, found.whole),
            f"{(layer.float_bytes - layer.bytes) / 1e6:.2f}",
            "" if layer.ms is None else f"{layer.ms:.3f}",
            "" if layer.float_ms is None else f"{layer.float_ms:.3f}",
        )
    return table


def _decibels(found: Accuracy) -> str:
    return "" if found.sqnr_db is None else f"{found.sqnr_db:.1f} dB"


def _gain(without: Accuracy, whole: Accuracy) -> str:
    if without.sqnr_db is None or whole.sqnr_db is None:
        return ""
    return f"{without.sqnr_db - whole.sqnr_db:+.2f} dB"


def _loss(found: Accuracy, name: str) -> str:
    score = found.score(name)
    return "" if score is None or score.loss is None else f"{100 * score.loss:+.1f} %"
