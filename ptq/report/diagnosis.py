"""Which layers cost what, and what was tried against it, as data and on the terminal."""

from __future__ import annotations

from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptq.evaluate import Accuracy
from ptq.report.console import megabytes, print_line, print_whole
from ptq.report.sweep import Sweep, render_tried

SCHEMA = 1
_SHOWN = 15


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
class Diagnosis:
    """Layers, those first that cost most alone; the whole network; and proposals, each of which was tried."""

    title: str
    whole: Accuracy
    layers: tuple[Blame, ...]
    tried: Sweep
    schema: int = SCHEMA


def render_diagnosis(found: Diagnosis, console: Console) -> None:
    """Print a diagnosis: the layers that cost most, then what was tried."""
    whole = _decibels(found.whole)
    print_line(console, f"quantized by {found.title}: {whole or 'equal to FP32'}, on {found.whole.samples} samples")
    print_whole(console, _table(found))
    if len(found.layers) > _SHOWN:
        print_line(console, f"         and {len(found.layers) - _SHOWN} layers that cost less; --format json has all")
    render_tried(found.tried, console)


def _table(found: Diagnosis) -> Table:
    names = [score.name for score in found.whole.scores if score.decides]
    right = (
        "alone",
        *(f"{name} lost" for name in names),
        "without it",
        "gain",
        "more bytes in float",
        "ms",
        "ms in float",
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
            megabytes(layer.float_bytes - layer.bytes),
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
