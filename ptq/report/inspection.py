"""What a model is made of and what formats would save, as data and on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptq.report.console import megabytes, print_line, print_whole, tally
from ptq.report.model import SourceReport
from ptq.report.prediction import Prediction, duration

SCHEMA = 1


@dataclass(frozen=True)
class InspectedLayer:
    """A site: its weights, and how it would compute with calibration data; `note` says why where it stays float."""

    site: str
    op: str
    shape: tuple[int, ...]
    weights: int
    execution: str
    note: str | None


@dataclass(frozen=True)
class OtherWeights:
    """Float weights of no kind of layer that is quantized, and the operator that reads them."""

    name: str
    count: int
    op: str


@dataclass(frozen=True)
class FormatSize:
    """What a file comes to with all layers in a format: the options that say it, bits per weight, bytes.

    `note` says why it cannot be, where it cannot.
    """

    options: str
    bits_per_weight: float | None = None
    bytes: int | None = None
    note: str | None = None


@dataclass(frozen=True)
class PredictedRun:
    """What quantizing with these options is expected to take on this machine, now."""

    options: str
    prediction: Prediction


@dataclass(frozen=True)
class Inspection:
    """Everything that a model says without data.

    `moment_bytes` is what methods hold in memory that look at how inputs vary together. `predictions` are for so many
    calibration samples as `predicted_samples`; without any, `notes` say why.
    """

    source: SourceReport
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    float_bytes: int
    layers: tuple[InspectedLayer, ...]
    others: tuple[OtherWeights, ...]
    formats: tuple[FormatSize, ...]
    moment_bytes: int
    versions: Mapping[str, str]
    predictions: tuple[PredictedRun, ...] = ()
    predicted_samples: int = 0
    notes: tuple[str, ...] = ()
    schema: int = SCHEMA


def render_inspection(found: Inspection, console: Console) -> None:
    """Print an inspection: the layers, what stays float, and what formats would save."""
    source = found.source
    print_line(
        console, f"model    {source.path or 'in memory'}: {source.kind}, {megabytes(found.float_bytes)} as it came"
    )
    print_line(console, f"inputs   {', '.join(found.inputs)}")
    print_line(console, f"outputs  {', '.join(found.outputs)}")
    print_whole(console, _layers(found))
    print_line(console, f"computed {tally(layer.execution for layer in found.layers)}, with --data")
    for layer in found.layers:
        if layer.note:
            print_line(console, f"float    {layer.site}: {layer.note}")
    for other in found.others:
        why = f"{other.op} is no kind of layer that is quantized"
        print_line(console, f"float    {other.name!r}, {other.count:,} weights: {why}")
    print_whole(console, _formats(found))
    if any(layer.execution == "lookup" for layer in found.layers):
        print_line(console, "tables   embedding tables are in int8, as --embeddings says")
    print_line(console, f"memory   {megabytes(found.moment_bytes)} more where a method looks at the data")
    if found.predictions:
        print_whole(console, _predictions(found))
    for note in found.notes:
        print_line(console, f"note     {note}")


def _layers(found: Inspection) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("layer", "op", "shape", "weights", "part", "computed"):
        table.add_column(title, justify="right" if title in {"weights", "part"} else "left", no_wrap=True)
    whole = max(sum(layer.weights for layer in found.layers) + sum(other.count for other in found.others), 1)
    for layer in found.layers:
        shape = "x".join(map(str, layer.shape))
        part = f"{100 * layer.weights / whole:.1f} %"
        table.add_row(*map(Text, (layer.site, layer.op, shape, f"{layer.weights:,}", part, layer.execution)))
    return table


def _predictions(found: Inspection) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in (f"quantizing here, {found.predicted_samples} samples", "takes about", "and memory"):
        table.add_column(title, justify="left" if title.startswith("quantizing") else "right", no_wrap=True)
    for each in found.predictions:
        expected = each.prediction
        table.add_row(Text(each.options), duration(expected.seconds), megabytes(expected.peak_bytes))
    return table


def _formats(found: Inspection) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("all layers in", "bits", "file", ""):
        table.add_column(title, justify="left" if title == "all layers in" else "right", no_wrap=True)
    for size in found.formats:
        if size.bytes is None:
            table.add_row(Text(size.options), "", "", Text(size.note or ""))
            continue
        smaller = f"{found.float_bytes / max(size.bytes, 1):.2f}x smaller"
        table.add_row(Text(size.options), f"{size.bits_per_weight:.2f}", megabytes(size.bytes), smaller)
    return table
