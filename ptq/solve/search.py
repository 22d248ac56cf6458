"""Find the scale and the numbers of every row: of the candidates of its scale the best wins and is improved."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ptq.formats import Format
from ptq.scales import ScaleGrid
from ptq.solve.curvature import Curvature
from ptq.solve.feedback import nearest_rows, round_rows
from ptq.solve.settle import settle
from ptq.solve.solution import Solution

_MOST_ELEMENTS = 1 << 22
_COARSE = torch.linspace(1.0, 0.45, 12)
_FINE = torch.linspace(1.0, 0.85, 4)
_FINE_LIMIT = 16
"""From here on an even grid is so fine that clipping its range cannot gain much."""

_IDLE = 2.0**-24
"""The part of the most powerful row's output below which a row's is nothing to an 8-bit tensor of all of them."""

_SPARE = 2.0
"""How far beyond the scales that are tried one may settle."""


def scale_grid(weight: Tensor, limits: Sequence[float], curvature: Curvature, least: Tensor | None = None) -> ScaleGrid:
    """A grid for the scales of rows `(groups, rows, in)` whose numbers reach to any of `limits`.

    Rows with next to no output, which training leaves behind, do not widen it: they take what scales there are.
    """
    widest = weight.abs().amax(-1)
    low, high = widest * _COARSE[-1] / (max(limits) * _SPARE), widest * (_SPARE / min(limits))
    if least is not None:
        low, high = low.maximum(least), high.maximum(least)
    power = curvature.errors(curvature.arranged(weight))
    alive = power > _IDLE * power.max()
    if not alive.any():
        return ScaleGrid(least=least)
    return ScaleGrid.spanning(float(low[alive].min()), float(high.max()), least)


def solve(
    weight: Tensor, fmt: Format, curvature: Curvature, *, feedback: bool, grid: ScaleGrid | None = None
) -> Solution:
    """Quantize rows `(groups, rows, in)` to numbers of a format, with scales on a grid of their own or `grid`.

    Scales are as they will be stored before anything is rounded.
    """
    largest = max(-fmt.min, fmt.max)
    grid = grid or scale_grid(weight, [largest], curvature)
    rows = curvature.arranged(weight)
    widest = rows.abs().amax(-1) / largest
    shrink = _FINE if _is_even(fmt) and largest / fmt.step >= _FINE_LIMIT else _COARSE
    together = max(1, _MOST_ELEMENTS // max(rows.numel(), 1))
    best: Solution | None = None
    for factors in torch.split(shrink, together):
        scale = grid.snap(widest * factors[:, None, None])
        found = _best_of(rows, scale, fmt, curvature, feedback=feedback)
        best = found if best is None else best.better(found)
    if best is None:
        raise AssertionError
    if feedback:
        best = settle(rows, best, fmt, curvature, grid)
    return Solution(curvature.restored(best.values), best.scale, best.error)


def _best_of(rows: Tensor, scale: Tensor, fmt: Format, curvature: Curvature, *, feedback: bool) -> Solution:
    """Round with every scale of `(candidates, groups, rows)` at once, and keep each row's best."""
    candidates, groups, count = scale.shape
    many = rows.repeat(1, candidates, 1)
    scales = scale.transpose(0, 1).reshape(groups, candidates * count)
    values = round_rows(many, scales, fmt, curvature) if feedback else nearest_rows(many, scales, fmt)
    error = curvature.errors(many - values * scales[..., None]).reshape(groups, candidates, count)
    least, winner = error.min(dim=1)
    values = values.reshape(groups, candidates, count, -1)
    chosen = values.gather(1, winner[:, None, :, None].expand(-1, 1, -1, values.shape[-1]))[:, 0]
    if fmt.step == 1 and fmt.fits_int8:
        chosen = chosen.to(torch.int8)
    return Solution(chosen, scale.gather(0, winner[None])[0], least)


def _is_even(fmt: Format) -> bool:
    """Whether all neighbours are equally far apart."""
    return len(fmt.values) == round((fmt.max - fmt.min) / fmt.step) + 1
