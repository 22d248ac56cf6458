"""What a run is about to do, as data, on the terminal and as JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptq.report.console import print_line, print_whole, tally
from ptq.report.model import SourceReport
from ptq.report.prediction import Prediction

SCHEMA = 1


@dataclass(frozen=True)
class OutlinedLayer:
    """One site: how it will be stored and computed, and what decided that.

    `bits_per_weight` and `bytes` are expected; where `budgeted`, the least that it takes. `statistics` are those of its
    inputs that are gathered, `rule` what was said of it apart from the other layers.
    """

    site: str
    op: str
    shape: tuple[int, ...]
    method: str | None
    format: str
    activations: str | None
    execution: str
    bits_per_weight: float
    bytes: int
    budgeted: bool
    statistics: tuple[str, ...]
    rule: str | None
    note: str | None


@dataclass(frozen=True)
class Outline:
    """Everything that is decided before anything is measured.

    `ranges` is how many tensors have their range taken from the data, `reserved` how many samples are kept for finding
    the layers that matter most.
    """

    source: SourceReport
    options: Mapping[str, Any]
    data: str | None
    layers: tuple[OutlinedLayer, ...]
    steps: tuple[str, ...]
    ranges: int
    reserved: int
    bits_per_weight: float
    bytes: int
    prediction: Prediction | None = None
    notes: tuple[str, ...] = ()
    schema: int = SCHEMA


def render_outline(outline: Outline, console: Console) -> None:
    """Print what is about to be done: the layers, then the totals."""
    source = outline.source
    print_line(console, f"model    {source.path or 'in memory'}: {source.kind}, {source.sites} layers")
    if outline.data is not None:
        print_line(console, f"data     {outline.data}")
    console.print()
    print_whole(console, _table(outline))
    for title, said in _totals(outline):
        print_line(console, f"{title:<9}{said}")
    for note in outline.notes:
        print_line(console, f"note     {note}")
    print_line(console, "nothing was written: --dry-run")


def _totals(outline: Outline) -> Iterator[tuple[str, str]]:
    yield "steps", " > ".join(outline.steps)
    kinds = Counter(kind for layer in outline.layers for kind in layer.statistics)
    said = [f"{kind} of the inputs of {count} layers" for kind, count in kinds.items()]
    said += [f"ranges of {outline.ranges} tensors"] if outline.ranges else []
    if outline.reserved:
        said.append(f"effects on the output, on {outline.reserved} samples apart")
    yield "measured", ", ".join(said) or "nothing"
    quantized = [layer for layer in outline.layers if layer.method is not None]
    yield "computed", tally(layer.execution for layer in outline.layers)
    least = (
        "; + marks the least of a layer, more goes where it pays" if any(each.budgeted for each in quantized) else ""
    )
    if outline.prediction is not None:
        yield "takes", outline.prediction.describe()
    yield (
        "weights",
        f"{outline.bits_per_weight:.2f} bits each, {outline.bytes / 1e6:.2f} MB are expected for them{least}",
    )


def _table(outline: Outline) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    right = ("bits", "bytes")
    for title in ("layer", "op", "shape", "method", "format", *right, "computed", "why"):
        table.add_column(title, justify="right" if title in right else "left", no_wrap=True)
    for layer in outline.layers:
        more = "+" if layer.budgeted else ""
        cells = (
            layer.site,
            layer.op,
            "x".join(map(str, layer.shape)),
            layer.method or "",
            layer.format,
            f"{layer.bits_per_weight:.2f}{more}",
            f"{layer.bytes:,}{more}",
            layer.execution,
            layer.note or layer.rule or "",
        )
        table.add_row(*(Text(cell) for cell in cells))
    return table
