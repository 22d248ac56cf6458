"""What has to be finite before anything is rounded."""

from __future__ import annotations

from typing import Final

import numpy as np

from ptq.errors import ModelError
from ptq.model.graph import Model
from ptq.model.sites import Site
from ptq.recipe import Plan

_MOST_SUM: Final = float(np.finfo(np.float32).max) / 16
"""Of the magnitudes of a row: what it makes of inputs of size one, with room for scales that are rounded up."""

_AT_ONCE: Final = 1 << 22
"""Numbers that are looked at together."""


def check_finite(model: Model, plan: Plan) -> None:
    """Look at the weights that are in memory before anything runs; others are looked at when they are read.

    Raises:
        ModelError: one of a layer that is to be quantized is NaN, infinite, or too large.

    """
    for site in model.sites:
        if plan.methods[site.name] is not None and not model.is_streamed(site.weight):
            check_matrix(site, model.matrix(site))


def check_matrix(site: Site, matrix: np.ndarray) -> None:
    """Refuse a weight `(out, in)` that no format holds, and one whose products are beyond float32.

    Raises:
        ModelError: it is such a one.

    """
    step = max(_AT_ONCE // site.columns, 1)
    with np.errstate(invalid="ignore"):
        sums = [np.abs(matrix[k : k + step]).sum(1, dtype=np.float64).max() for k in range(0, len(matrix), step)]
    largest = max(sums, key=lambda each: np.inf if np.isnan(each) else each)
    if not largest <= _MOST_SUM:
        wrong = "rows whose sums overflow float32" if np.isfinite(largest) else "NaN or infinite numbers"
        raise ModelError(
            f"the weight {site.weight!r} of {site.name} has {wrong}, which no quantization keeps; "
            f"repair the model, or give --keep-float for this layer"
        )
