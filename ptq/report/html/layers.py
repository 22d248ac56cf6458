"""Layers of a quantized model: a table of them, and charts by layer in the order in which they run."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ptq.report.html.charts import BASE, LINE, MOST_NAMES, listed
from ptq.report.html.page import Cell, Chart, Table
from ptq.report.model import LayerReport, Report

_POINTS = "channels by points"
_NUMBERS = ("weights", "bits", "kB", "weight dB", "output dB")


def layer_table(report: Report) -> Table:
    """Every layer, and how it is stored and computed."""
    columns = ("layer", "op", "shape", "kernel", "method", "format", *_NUMBERS, _POINTS, "why")
    return Table("Layers", columns, [_row(layer) for layer in report.layers], frozenset(_NUMBERS))


def _row(layer: LayerReport) -> list[Cell]:
    count = _count(layer)
    several = ", ".join(f"{count:,} {mix}" for mix, count in layer.mixes.items()) if len(layer.mixes) > 1 else ""
    return [
        Cell(layer.site),
        Cell(layer.op),
        Cell("×".join(map(str, layer.shape))),
        Cell(layer.kernel or "", status="" if layer.integer or layer.execution == "lookup" else "faint"),
        Cell(layer.method or "float"),
        Cell(layer.format),
        Cell(f"{count:,}", count),
        Cell(f"{layer.bits_per_weight:.2f}", layer.bits_per_weight),
        Cell(f"{layer.bytes / 1e3:.1f}", layer.bytes),
        Cell.of(layer.weight_sqnr_db, "{:.1f}"),
        Cell.of(layer.output_sqnr_db, "{:.1f}"),
        Cell(several, _mean_points(layer)),
        Cell(layer.note or layer.rule or ""),
    ]


def layer_charts(report: Report) -> list[Chart]:
    """The signal-to-noise ratio of the outputs, the bits, and how many points rows have, layer by layer."""
    quantized = report.quantized
    found = []
    measured = [layer for layer in quantized if layer.output_sqnr_db is not None]
    if measured:
        worst = sorted(measured, key=lambda layer: layer.output_sqnr_db or 0.0)[:3]
        named = ", ".join(f"{layer.site} {layer.output_sqnr_db:.1f} dB" for layer in worst)
        values = [{"layer": layer.site, "y": layer.output_sqnr_db, "part": ""} for layer in measured]
        found.append(
            bars(values, "output SQNR in dB", f"What rounding a layer's weights does to its output; worst are {named}.")
        )
    if len({layer.bits_per_weight for layer in quantized}) > 1:
        values = [{"layer": layer.site, "y": layer.bits_per_weight, "part": ""} for layer in quantized]
        found.append(bars(values, "bits per weight", "Bits of each layer, scales and indices included."))
    if any(len(layer.points) > 1 for layer in quantized):
        values = [
            {"layer": layer.site, "y": count / max(sum(layer.mixes.values()), 1), "part": mix}
            for layer in quantized
            for mix, count in layer.mixes.items()
        ]
        caption = "Channels of each layer by the points that they are the sum of: more where their output needs them."
        found.append(bars(values, "part of the channels", caption))
    return found


def bars(values: Sequence[dict[str, Any]], title: str, caption: str, order: str = "in order") -> Chart:
    """A bar for each layer, stacked where it has parts."""
    names = list(dict.fromkeys(each["layer"] for each in values))
    parts = len({each["part"] for each in values}) > 1
    axis = {"labels": len(names) <= MOST_NAMES, "ticks": False, "labelAngle": -60, "labelLimit": 110}
    encoding: dict[str, Any] = {
        "x": {"field": "layer", "type": "nominal", "sort": names, "title": f"layers, {order}", "axis": axis},
        "y": {"field": "y", "type": "quantitative", "title": title},
        "tooltip": [
            {"field": "layer"},
            *([{"field": "part", "title": "points"}] if parts else []),
            {"field": "y", "title": title, "format": ".3~f"},
        ],
    }
    if parts:
        encoding["color"] = {"field": "part", "type": "nominal", "title": "points", "scale": {"scheme": "category10"}}
    words = [filter(None, (each["layer"], each["part"], f"{each['y']:.3g}")) for each in values]
    spec = {
        **BASE,
        "description": f"{title} by layer: {listed([*map(' '.join, words)], MOST_NAMES)}",
        "data": {"values": list(values)},
        "mark": {"type": "bar"} if parts else {"type": "bar", "color": LINE},
        "encoding": encoding,
    }
    return Chart(f"{title[0].upper()}{title[1:]} by layer", spec, caption)


def _count(layer: LayerReport) -> int:
    count = 1
    for size in layer.shape:
        count *= size
    return count


def _mean_points(layer: LayerReport) -> float | None:
    rows = sum(layer.points)
    return sum(each * count for each, count in enumerate(layer.points, 1)) / rows if rows else None
