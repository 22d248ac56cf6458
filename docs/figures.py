"""Draw the figure of the page on multipoint: a row of weights, one point, and the sum of two.

python docs/figures.py
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np
import vl_convert

FIGURE: Final = Path(__file__).with_name("pages") / "multipoint.svg"
_COLUMNS: Final = 24
_LIMIT: Final = 7
"""Of int4 without its lowest number."""


def rows() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights, one int4 point, and the sum of two, each the nearest on its scale."""
    weights = np.random.default_rng(4).standard_normal(_COLUMNS)
    scale = np.abs(weights).max() / _LIMIT
    first = scale * np.clip(np.rint(weights / scale), -_LIMIT, _LIMIT)
    finer = scale / (2 * _LIMIT + 1)
    second = finer * np.clip(np.rint((weights - first) / finer), -_LIMIT, _LIMIT)
    return weights, first, first + second


def figure() -> str:
    """The figure as SVG."""
    weights, one, two = rows()
    values = [
        {"column": column, "value": float(value), "row": name}
        for name, row in (("weights", weights), ("one point", one), ("two points", two))
        for column, value in enumerate(row)
    ]
    errors = {name: float(np.sqrt(((row - weights) ** 2).mean())) for name, row in (("one", one), ("two", two))}
    spec: dict[str, Any] = {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "width": 640,
        "height": 240,
        "background": "white",
        "title": f"RMS error: one point {errors['one']:.3f}, two points {errors['two']:.4f}",
        "data": {"values": values},
        "mark": {"type": "line", "point": True, "interpolate": "step"},
        "encoding": {
            "x": {"field": "column", "type": "quantitative", "title": "weight of the row"},
            "y": {"field": "value", "type": "quantitative", "title": None},
            "color": {"field": "row", "title": None, "sort": ["weights", "one point", "two points"]},
            "strokeDash": {"field": "row", "title": None, "sort": ["weights", "one point", "two points"]},
        },
    }
    drawn: str = vl_convert.vegalite_to_svg(spec)
    return drawn


if __name__ == "__main__":
    FIGURE.write_text(figure() + "\n", encoding="utf-8")
