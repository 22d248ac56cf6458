"""Charts in Vega-Lite that are read in light and dark, on screens and on paper, and without seeing colours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from ptq.report.comparison import Gain
from ptq.report.html.page import Chart, Spec
from ptq.report.pareto import front

VERDICTS: Final = ("FP32", "PASS", "WARNING")
_COLORS: Final = ("#8b5cf6", "#16a34a", "#d97706")
"""Each at least 3 to 1 on white and on the dark background."""

_SHAPES: Final = ("diamond", "circle", "triangle-up")
LINE: Final = "#3b82f6"

_MARGIN: Final = 1.25
_MOST_LABELS: Final = 6
"""More would lie on each other: of a longer front, the ends and the knee have one."""

MOST_NAMES: Final = 30
"""Names of more layers or tensors would not be read below an axis."""

_INK: Final = "currentColor"
CONFIG: Final[Spec] = {
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        "labelColor": _INK,
        "titleColor": _INK,
        "domainColor": _INK,
        "tickColor": _INK,
        "gridColor": _INK,
        "gridOpacity": 0.12,
        "labelFontSize": 12,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
    },
    "legend": {"labelColor": _INK, "titleColor": _INK, "orient": "bottom", "labelFontSize": 12},
}


BASE: Final[Spec] = {
    "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
    "width": "container",
    "height": 320,
    "autosize": {"type": "fit", "contains": "padding"},
    "config": CONFIG,
}
"""What all charts have in common."""


@dataclass(frozen=True)
class Spot:
    """A point of a chart: what it is called, where it lies, its verdict, and what is told of it in words."""

    name: str
    x: float
    y: float
    verdict: str
    told: str


def listed(parts: Sequence[str], most: int) -> str:
    """The end of a description: the first parts, and how many more there are."""
    more = [f"and {len(parts) - most} more"] if len(parts) > most else []
    return "; ".join([*parts[:most], *more]) + "."


def trade_off(spots: Sequence[Spot], x: str, gain: Gain, ring: str | None) -> Chart:
    """A gain against a cost, with the Pareto front, and a ring around the knee, which is the spot of that name."""
    y, rising = gain.title, gain.rising
    points = [(spot.x, spot.y if rising else -spot.y) for spot in spots]
    best = front(points)
    bend = next((index for index, spot in enumerate(spots) if spot.name == ring), None)
    labelled = [*(best if len(best) <= _MOST_LABELS else (best[0], best[-1])), bend]
    values = [
        {**asdict(spot), "front": index in best, "label": spot.name if index in labelled else "", "knee": index == bend}
        for index, spot in enumerate(spots)
    ]
    low, high = min(spot.x for spot in spots), max(spot.x for spot in spots)
    apart = {"type": "log", "nice": False, "domain": [low / _MARGIN, high * _MARGIN]}  # FP32 is far to the right
    across = {"field": "x", "type": "quantitative", "title": x, "scale": apart}
    upward = {"zero": False, "padding": 20, "reverse": not rising}
    up = {"field": "y", "type": "quantitative", "title": y, "scale": upward}
    on_front = [{"filter": "datum.front"}]
    layers: list[dict[str, Any]] = [
        {
            "transform": on_front,
            "mark": {"type": "line", "color": LINE, "strokeDash": [4, 3]},
            "encoding": {"x": across, "y": up, "order": {"field": "x"}},
        },
        {
            "mark": {"type": "point", "filled": True, "size": 110, "opacity": 1},
            "encoding": {
                "x": across,
                "y": up,
                "color": _by_verdict("range", _COLORS),
                "shape": _by_verdict("range", _SHAPES),
                "tooltip": [{"field": "name", "title": "file"}, {"field": "told", "title": "is"}],
                "description": {"field": "told"},
            },
        },
        {
            "transform": [{"filter": "datum.label"}],
            "mark": {"type": "text", "align": "center", "dy": -12, "color": _INK, "fontSize": 11, "limit": 180},
            "encoding": {"x": across, "y": up, "text": {"field": "label"}},
        },
    ]
    if bend is not None:
        layers.append(
            {
                "transform": [{"filter": "datum.knee"}],
                "mark": {"type": "point", "filled": False, "size": 420, "stroke": LINE, "strokeWidth": 2},
                "encoding": {"x": across, "y": up},
            }
        )
    told = "; ".join(f"{spot.name}: {spot.told}" for spot in spots)
    spec = {
        **BASE,
        "description": f"{y} against {x} of {len(spots)} files. {told}.",
        "data": {"values": values},
        "layer": layers,
    }
    better = "up and to the left is better" if rising else "less of both is better, which is up and to the left"
    return Chart(
        f"{y} against {x}",
        spec,
        f"{better[0].upper()}{better[1:]}. Files on the dashed line lose to no other in both: "
        f"{', '.join(spots[index].name for index in best)}."
        + ("" if gain.step is None else f" One sample is {gain.step:.2g}: less than some of these is noise.")
        + (
            ""
            if bend is None
            else f" The ring is the knee, from where on more {x} bring less SQNR: {spots[bend].name}."
        ),
    )


def _by_verdict(kind: str, values: Sequence[str]) -> dict[str, Any]:
    scale = {"domain": list(VERDICTS), kind: list(values)}
    return {"field": "verdict", "type": "nominal", "title": None, "scale": scale}
