"""The page of a model that was looked at."""

from __future__ import annotations

import math

from ptq.report.console import tally
from ptq.report.html.charts import BASE, LINE
from ptq.report.html.layers import bars
from ptq.report.html.page import Cell, Chart, Page, Remark, Table
from ptq.report.inspection import FormatSize, Inspection

_MOST_BARS = 200


def inspection_page(found: Inspection) -> Page:
    """What a model says without data."""
    source = found.source
    sizes = [size for size in found.formats if size.bytes is not None]
    smallest = min((size.bytes or 0 for size in sizes), default=found.float_bytes)
    remarks = [Remark(layer.note, "float", layer.site) for layer in found.layers if layer.note]
    remarks += [
        Remark(f"{other.count:,} weights: {other.op} is no kind of layer that is quantized", "float", other.name)
        for other in found.others
    ]
    remarks += map(Remark, found.notes)
    return Page(
        title=f"{source.path or 'a model'} inspected",
        heading=source.path or "A model",
        status="",
        outcome=(
            f"{len(found.layers)} layers, {source.weights:,} weights, {found.float_bytes / 1e6:.2f} MB as it came; "
            f"down to {smallest / 1e6:.2f} MB in the formats below"
        ),
        versions=found.versions,
        remarks=remarks,
        charts=[_sizes(found, sizes), *_weights(found)],
        tables=[_formats(found), *_predictions(found), _layers(found)],
        origin=[
            ("float model", f"{source.path or 'in memory'}: {source.kind}, SHA-256 {source.sha256 or 'not known'}"),
            ("inputs", ", ".join(found.inputs)),
            ("outputs", ", ".join(found.outputs)),
            ("computed", f"{tally(layer.execution for layer in found.layers)}, with calibration data"),
        ],
    )


def _sizes(found: Inspection, sizes: list[FormatSize]) -> Chart:
    """What the file comes to in each format."""
    named = [("as it came", found.float_bytes / 1e6), *((size.options, (size.bytes or 0) / 1e6) for size in sizes)]
    values = [{"name": name, "y": each} for name, each in named]
    told = "; ".join(f"{name} {each:.2f} MB" for name, each in named)
    spec = {
        **BASE,
        "description": f"Size of the file by format: {told}.",
        "data": {"values": values},
        "mark": {"type": "bar", "color": LINE},
        "encoding": {
            "y": {"field": "name", "type": "nominal", "sort": None, "title": None, "axis": {"labelLimit": 160}},
            "x": {"field": "y", "type": "quantitative", "title": "MB"},
            "tooltip": [{"field": "name"}, {"field": "y", "title": "MB", "format": ".2f"}],
        },
    }
    return Chart("Size by format", spec, "What the file comes to with all layers in one format.")


def _weights(found: Inspection) -> list[Chart]:
    if not 1 < len(found.layers) <= _MOST_BARS:
        return []
    values = [{"layer": layer.site, "y": layer.weights, "part": ""} for layer in found.layers]
    return [bars(values, "weights", "Weights of each layer: where there are most, few bits save most.")]


def _layers(found: Inspection) -> Table:
    whole = max(sum(layer.weights for layer in found.layers) + sum(other.count for other in found.others), 1)
    rows = [
        [
            Cell(layer.site),
            Cell(layer.op),
            Cell("×".join(map(str, layer.shape))),
            Cell(f"{layer.weights:,}", layer.weights),
            Cell(f"{100 * layer.weights / whole:.1f} %", layer.weights / whole),
            Cell(layer.execution),
            Cell(layer.note or ""),
        ]
        for layer in found.layers
    ]
    columns = ("layer", "op", "shape", "weights", "part", "computed", "why")
    return Table("Layers", columns, rows, frozenset({"weights", "part"}))


def _formats(found: Inspection) -> Table:
    rows = []
    for size in found.formats:
        if size.bytes is None:
            rows.append([Cell(size.options), Cell(""), Cell(""), Cell(""), Cell(size.note or "")])
            continue
        smaller = found.float_bytes / max(size.bytes, 1)
        bits = size.bits_per_weight or math.nan
        rows.append(
            [
                Cell(size.options),
                Cell(f"{bits:.2f}", bits),
                Cell(f"{size.bytes / 1e6:.2f}", size.bytes),
                Cell(f"{smaller:.2f}x", smaller),
                Cell(""),
            ]
        )
    numbers = ("bits", "MB", "smaller")
    return Table("All layers in one format", ("options", *numbers, "why not"), rows, frozenset(numbers))


def _predictions(found: Inspection) -> list[Table]:
    if not found.predictions:
        return []
    rows = [
        [
            Cell(each.options),
            Cell(f"{each.prediction.seconds:.0f}", each.prediction.seconds),
            Cell(f"{each.prediction.peak_bytes / 1e6:.0f}", each.prediction.peak_bytes),
        ]
        for each in found.predictions
    ]
    columns = ("options", "seconds", "MB of memory")
    return [Table("What quantizing takes here", columns, rows, frozenset(columns[1:]))]
