"""Histograms of weights and activations with their grids, ranges, and where rows have more points."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Final

from ptq.report.distribution import ActivationReport, Distribution
from ptq.report.html.charts import BASE, LINE, MOST_NAMES, listed
from ptq.report.html.page import Cell, Chart, Spec, Table
from ptq.report.model import LayerReport

_TICK: Final = 14
"""Length of the ticks of a grid, in pixels; they are centred on the axis, and cut off below it."""

_MOST_TICKS: Final = 128
_MOST_TOLD: Final = 12
_EVEN: Final = 0.01
"""By so much of a step the steps of a grid may differ to be even: they are rounded for the report."""

_SEQUENCE: Final = "datum.grid || sequence(datum.first, datum.stop, datum.step)"
_GRID: Final = "#d97706"
_TICKS: Final[Spec] = {
    "type": "tick",
    "color": _GRID,
    "thickness": 1,
    "orient": "vertical",
    "clip": True,
}
_ROW: Final = 14
"""Height of a layer in the map, in pixels."""

_LEAST, _MOST = 120, 900
"""Height of the map, in pixels."""


def weight_histograms(layers: Sequence[LayerReport]) -> Chart | None:
    """The weights of a layer that the reader picks."""
    found = {layer.site: layer.numbers for layer in layers if layer.numbers is not None}
    caption = (
        "Weights of one layer, each divided by the first scale of its row, and, as ticks below, the numbers that they "
        "became. Ticks between whole ones come of more points, or of factors of groups; weights beyond the last tick "
        "are clipped. The height is the square root of how many there are, so that tails are seen."
    )
    return _picked("Weights and their grid", found, "layer", "weight in steps of its row", caption) if found else None


def activation_histograms(activations: Sequence[ActivationReport]) -> Chart | None:
    """The numbers of a tensor that the reader picks."""
    found = {each.tensor: each.numbers for each in activations}
    caption = (
        "Numbers of one tensor on a few samples of the float network and, as ticks below, the grid that they are "
        "rounded to; without ticks there is a new range at every call. The height is the square root of how many there "
        "are."
    )
    return _picked("Activations and their grid", found, "tensor", "activation", caption) if found else None


def _picked(heading: str, found: Mapping[str, Distribution], what: str, title: str, caption: str) -> Chart:
    """A histogram over a grid, of the one that is picked by name."""
    values = [{"name": name, **_bins(each), **_grid(each)} for name, each in found.items()]
    names = list(found)
    shown = {"filter": "datum.name === shown"}
    across = {"type": "quantitative", "title": title, "scale": {"zero": False, "nice": False}}
    up = {"field": "counts", "type": "quantitative", "title": None, "axis": None, "scale": {"type": "sqrt"}}
    bars = {
        "transform": [
            shown,
            {"flatten": ["counts"]},
            {"window": [{"op": "row_number", "as": "bin"}]},
            {"calculate": "datum.low + (datum.bin - 1) * datum.width", "as": "from"},
            {"calculate": "datum.from + datum.width", "as": "to"},
        ],
        "mark": {"type": "bar", "color": LINE, "binSpacing": 0},
        "encoding": {
            "x": {"field": "from", **across},
            "x2": {"field": "to"},
            "y": up,
            "y2": {"datum": 0},
            "tooltip": [{"field": name, "format": ".4~g"} for name in ("from", "to")]
            + [{"field": "counts", "title": "numbers"}],
        },
    }
    ticks = {
        "transform": [shown, {"calculate": _SEQUENCE, "as": "grid"}, {"flatten": ["grid"]}],
        "mark": {**_TICKS, "size": 2 * _TICK},
        "encoding": {"x": {"field": "grid", **across}, "y": {"value": "height"}, "opacity": _only_of_grids()},
    }
    pick = {"input": "select", "options": names, "name": f"{what} "}
    spans = [_span(name, each) for name, each in found.items()]
    told = f"A histogram of one of {len(names)}, with its grid: {listed(spans, _MOST_TOLD)}"
    spec = {**BASE, "description": told, "params": [{"name": "shown", "value": names[0], "bind": pick}]}
    return Chart(heading, {**spec, "data": {"values": values}, "layer": [bars, ticks]}, caption)


def _bins(of: Distribution) -> dict[str, Any]:
    return {"counts": list(of.counts), "low": of.low, "width": (of.high - of.low) / len(of.counts)}


def _grid(of: Distribution) -> dict[str, Any]:
    """Its numbers, in short where they are evenly spaced: pages have a grid for each of hundreds of layers.

    Where there is none, one that is not seen: the scale of nothing is a warning on the console.
    """
    if not of.grid:
        return {"grid": [of.low], "gridded": False}
    shown = of.grid[:: -(-len(of.grid) // _MOST_TICKS)]
    steps = [after - before for before, after in itertools.pairwise(shown)]
    if len(steps) > 1 and max(steps) - min(steps) <= _EVEN * max(steps):
        step = (shown[-1] - shown[0]) / len(steps)
        return {"first": shown[0], "stop": shown[-1] + step / 2, "step": step, "gridded": True}
    return {"grid": list(shown), "gridded": True}


def _only_of_grids() -> Spec:
    return {"condition": {"test": "datum.gridded", "value": 1}, "value": 0}


def _span(name: str, of: Distribution | ActivationReport) -> str:
    return f"{name} from {of.low:.3g} to {of.high:.3g}"


def ranges(activations: Sequence[ActivationReport]) -> Chart | None:
    """What tensors reach, and what their grids cover, in the order in which they are made."""
    on_grids = [each for each in activations if each.numbers.grid]
    if not on_grids:
        return None
    names = [each.tensor for each in on_grids]
    values = [
        {
            "tensor": each.tensor,
            "low": each.low,
            "high": each.high,
            "first": each.numbers.grid[0],
            "last": each.numbers.grid[-1],
        }
        for each in on_grids
    ]
    axis = {"labels": len(names) <= MOST_NAMES, "ticks": False, "labelAngle": -60, "labelLimit": 110}
    x = {"field": "tensor", "type": "nominal", "sort": names, "title": "tensors in order", "axis": axis}
    shown = [{"field": name, "format": ".4~g"} for name in ("low", "high", "first", "last")]
    tooltip = [{"field": "tensor"}, *shown]
    upward = {"type": "quantitative", "title": "range", "scale": {"type": "symlog"}}
    covered = {
        "mark": {"type": "bar", "color": _GRID, "opacity": 0.35},
        "encoding": {"x": x, "y": {"field": "first", **upward}, "y2": {"field": "last"}, "tooltip": tooltip},
    }
    seen = {
        "mark": {"type": "bar", "color": LINE, "size": 3},
        "encoding": {"x": x, "y": {"field": "low", **upward}, "y2": {"field": "high"}, "tooltip": tooltip},
    }
    spans = [_span(each.tensor, each) for each in on_grids]
    told = f"Ranges of {len(names)} tensors: {listed(spans, _MOST_TOLD)}"
    return Chart(
        "Ranges of activations",
        {**BASE, "description": told, "data": {"values": values}, "layer": [covered, seen]},
        "Broad bars are what the grid of a tensor covers, narrow ones what was seen of it; what is seen outside of the "
        "grid is clipped. The scale is logarithmic away from 0.",
    )


def activation_table(activations: Sequence[ActivationReport]) -> Table | None:
    """Every tensor with its range and grid."""
    if not activations:
        return None
    columns = ("tensor", "low", "high", "grid from", "grid to", "step", "zero point", "clipped")
    return Table("Activations", columns, [_row(each) for each in activations], frozenset(columns[1:]))


def _row(of: ActivationReport) -> list[Cell]:
    ends = (of.numbers.grid[0], of.numbers.grid[-1]) if of.numbers.grid else (None, None)
    numbers = (of.low, of.high, *ends, of.step)
    cells = [Cell.of(each, "{:.4g}") for each in numbers]
    zero = Cell("at every call") if of.zero_point is None else Cell(str(of.zero_point), of.zero_point)
    return [
        Cell(of.tensor),
        *cells,
        zero,
        Cell("") if of.clipped is None else Cell(f"{100 * of.clipped:.2f} %", of.clipped),
    ]


def points_map(layers: Sequence[LayerReport]) -> Chart | None:
    """How many points the rows of each layer have, along its rows."""
    found = {layer.site: layer.points_map for layer in layers if layer.points_map}
    if not found:
        return None
    values = [
        {
            "layer": name,
            "points": list(parts),
            "width": 1 / len(parts),
        }
        for name, parts in found.items()
    ]
    height = min(max(_ROW * len(found), _LEAST), _MOST)
    across: Spec = {"type": "quantitative", "title": "along its channels", "axis": {"format": "%", "grid": False}}
    labels = {"labelLimit": 110, "labelFontSize": 10, "ticks": False, "labels": _ROW * len(found) <= _MOST}
    encoding = {
        "x": {"field": "from", **across},
        "x2": {"field": "to"},
        "y": {"field": "layer", "type": "nominal", "sort": list(found), "title": None, "axis": labels},
        "color": {"field": "points", "type": "quantitative", "title": "points", "scale": {"scheme": "viridis"}},
        "tooltip": [{"field": "layer"}, {"field": "points"}, {"field": "from", "format": ".0%"}],
    }
    means = [f"{name} {sum(parts) / len(parts):.2f}" for name, parts in found.items()]
    told = f"Mean number of points of {len(found)} layers along their channels: {listed(means, MOST_NAMES)}"
    spec = {
        **BASE,
        "height": height,
        "description": told,
        "data": {"values": values},
        "transform": [
            {"flatten": ["points"]},
            {"window": [{"op": "row_number", "as": "part"}], "groupby": ["layer"]},
            {"calculate": "(datum.part - 1) * datum.width", "as": "from"},
            {"calculate": "datum.from + datum.width", "as": "to"},
        ],
        "mark": {"type": "rect"},
        "encoding": encoding,
    }
    caption = "Channels of each layer, the first at the left: brighter has more points. Layers with one are left out."
    return Chart("Points per channel", spec, caption)
