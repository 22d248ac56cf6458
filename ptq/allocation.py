"""How many points every row gets: a tolerance, a number, or a budget of bits spent where it lowers the error most."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ptq.errors import OptionError
from ptq.ladder import Ladder

Points = dict[str, Tensor]
"""The number of points of every row, int64 `(out,)`, by site."""


@dataclass(frozen=True)
class _Step:
    """One more point for some rows of a site: what it gains per stored bit, and what it costs."""

    merit: float
    site: str
    rows: slice
    points: int
    bits: int


def by_number(ladders: Mapping[str, Ladder], points: int) -> Points:
    """The same number everywhere, or as many as a site can have."""
    return {name: torch.full((ladder.shape[0],), min(points, ladder.most_points)) for name, ladder in ladders.items()}


def by_tolerance(ladders: Mapping[str, Ladder], tolerance: float, *, per_layer: bool) -> Points:
    """The fewest points with which the output error is at most `tolerance` times the output power (algorithm 2)."""
    return {name: _enough(ladder, tolerance, per_layer=per_layer) for name, ladder in ladders.items()}


def _enough(ladder: Ladder, tolerance: float, *, per_layer: bool) -> Tensor:
    error, power = ladder.error, ladder.power
    if per_layer:
        error, power = error.sum(1, keepdim=True).expand_as(error), power.sum().expand_as(power)
    above = error > tolerance * power
    return (above.cumprod(0).sum(0) + 1).clamp_max(ladder.most_points)


def by_bits(
    ladders: Mapping[str, Ladder], effects: Mapping[str, float], bits: float, *, per_layer: bool
) -> tuple[Points, float]:
    """The best points with at most `bits` per weight on average, and what they come to.

    `effects` is the error at the network's output when a site alone has one point everywhere; a row's part in it is
    its part in the output error of the site.

    Raises:
        OptionError: one point everywhere already takes more.

    """
    points = by_number(ladders, 1)
    weights = sum(rows * columns for rows, columns in (ladder.shape for ladder in ladders.values()))
    spent = sum(ladder.base_bits * ladder.shape[0] for ladder in ladders.values())
    if weights and spent > bits * weights:
        raise OptionError(
            f"--bits {bits:g} is below the {spent / weights:.3f} bits per weight that one point everywhere takes, "
            f"scales included; give at least {_ceil(spent / weights)}, or a narrower base format"
        )
    steps = [step for name, ladder in ladders.items() for step in _steps(name, ladder, effects[name], per_layer)]
    for step in sorted(steps, key=lambda s: (-s.merit, s.site, s.rows.start, s.points)):
        reached = points[step.site][step.rows]
        if spent + step.bits <= bits * weights and int(reached[0]) == step.points - 1:
            reached += 1
            spent += step.bits
    return points, spent / max(weights, 1)


def _steps(name: str, ladder: Ladder, effect: float, per_layer: bool) -> list[_Step]:  # noqa: FBT001
    """All steps of a site; a row's merit never rises with its points, so that steps come in order."""
    error = ladder.error.double().numpy()
    share = error / max(error[0].sum(), np.finfo(np.float64).tiny) * effect
    rows = ladder.shape[0]
    blocks = [slice(0, rows)] if per_layer else [slice(row, row + 1) for row in range(rows)]
    costs = [ladder.row_bits(n) for n in range(1, ladder.most_points + 1)]
    steps = []
    for block in blocks:
        merit = np.inf
        for n in range(1, ladder.most_points):
            bits = (costs[n] - costs[n - 1]) * (block.stop - block.start)
            gain = float(share[n - 1, block].sum() - share[n, block].sum())
            merit = min(merit, max(gain, 0.0) / bits)
            if merit > 0:
                steps.append(_Step(merit, name, block, n + 1, bits))
    return steps


def _ceil(bits: float) -> str:
    return f"{np.ceil(bits * 100) / 100:.2f}"
