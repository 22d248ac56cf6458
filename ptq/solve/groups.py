"""Scales that groups of weights share, zero points, scales of whole tensors: found first, then rounded on."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ptq import formats
from ptq.formats import Format
from ptq.scales import ScaleGrid, unit_below
from ptq.scheme import Scheme
from ptq.solve.curvature import Curvature
from ptq.solve.feedback import nearest_rows
from ptq.solve.grouping import Grouping
from ptq.solve.roundings import RowRounding
from ptq.solve.search import candidates, compact, limits, scale_grid
from ptq.solve.settle import Improver
from ptq.solve.solution import Solution

_E8M0 = formats.get("e8m0")
_NEXT = torch.tensor([1.25, 1.5])
"""Among scales that are far apart, whole multiples of one or powers of two, the nearest is often too small; these
reach the next."""

_ROOM = 1.02
"""What the scale of a row has to spare, as the nearest one of 8 bits may be too small by that."""


class Steps(NamedTuple):
    """Scales as they are stored and the zero points that go with them, `(g, rows, groups)`."""

    scale: Tensor
    zero: Tensor | None


Refine = Callable[[Tensor, Steps, Scheme, ScaleGrid], Steps]
"""Better steps for groups `(g, rows, groups, size)`, zeros behind the end of a row, that have some."""


def solve_groups(
    weight: Tensor,
    scheme: Scheme,
    curvature: Curvature,
    rounding: RowRounding,
    least: Tensor | None = None,
    grid: ScaleGrid | None = None,
    *,
    refine: Refine | None = None,
) -> tuple[Solution, ScaleGrid]:
    """Quantize rows `(groups, rows, in)` by a scheme with groups, zero points or one scale; and the grid of scales.

    The scales of the groups are those of least squared error by themselves, each weight counting as the diagonal of
    the curvature says, or what `refine` makes of them. `least (groups, rows, 1)` bounds the scales from below; a `grid`
    that is given has its own bound.
    """
    grouping = Grouping.of(weight.shape[-1], scheme.group)
    fmt = scheme.format
    parts = grouping.split(weight)
    low, high = _ends(parts, scheme)
    grid = grid or grid_of(weight, scheme, curvature, least)
    importance = curvature.restored(curvature.diagonal[:, None, :])
    steps = _searched(parts, grouping.split(importance), low, high, scheme, grid)
    if refine is not None:
        steps = refine(parts, steps, scheme, grid)
    rows, scale = curvature.arranged(weight), grouping.wide(steps.scale, curvature.order)
    zero = None if steps.zero is None else grouping.wide(steps.zero, curvature.order)

    def first(rounding: RowRounding) -> Solution:
        values, error = rounding.rows(rows, scale, fmt, curvature, zero)
        return Solution(values if zero is not None else compact(values, fmt), steps.scale, error, steps.zero)

    shared = scheme.per_tensor and scheme.group is None
    found = Improver(rows, fmt, curvature, grid, grouping, shared).solution(rounding, first)
    return Solution(curvature.restored(found.values), found.scale, found.error, found.zero), grid


def grid_of(weight: Tensor, scheme: Scheme, curvature: Curvature, least: Tensor | None = None) -> ScaleGrid:
    """The scales that rows `(groups, rows, in)` can have by such a scheme."""
    low, high = _ends(Grouping.of(weight.shape[-1], scheme.group).split(weight), scheme)
    return _grid(_widest(low, high, scheme.format), weight, scheme, curvature, least)


def _ends(parts: Tensor, scheme: Scheme) -> tuple[Tensor, Tensor]:
    """The least and the largest of what shares a scale, and 0; `(g, rows, groups)`."""
    low, high = parts.amin(-1).clamp_max(0), parts.amax(-1).clamp_min(0)
    if scheme.per_tensor and scheme.group is None:
        return low.min().expand_as(low), high.max().expand_as(high)
    return low, high


def _widest(low: Tensor, high: Tensor, fmt: Format) -> Tensor:
    """The scales with which nothing is clipped."""
    if fmt.min < 0:
        return torch.maximum(-low / -fmt.min, high / fmt.max)
    return (high - low) / (fmt.max - fmt.min)


def _balanced(low: Tensor, high: Tensor, fmt: Format) -> Tensor:
    """The scales with which the number farthest from 0 is half of all steps away, as in GGUF's Q4_0."""
    return torch.maximum(-low, high) / ((fmt.max - fmt.min + 1) // 2)


def _grid(widest: Tensor, weight: Tensor, scheme: Scheme, curvature: Curvature, least: Tensor | None) -> ScaleGrid:
    """What the scales can be: one for all, one a row, or multiples of such a one."""
    factors, largest = scheme.factors, float(widest.max())
    reaches = limits(scheme.format)
    if factors is None:
        if scheme.per_tensor:
            return ScaleGrid.exact(None if least is None else least.max())
        return scale_grid(weight, reaches, curvature, least)
    if factors == formats.get("ulog8"):
        return ScaleGrid(unit_below(largest * max(1.0, float(candidates(scheme.format).max()))), least)
    if scheme.per_tensor:
        return ScaleGrid(max(largest / factors.max, torch.finfo(torch.float32).tiny), least, factors)
    if factors.min == 1:
        unit = scale_grid(weight, [reach * factors.max for reach in reaches], curvature, least).snap(
            widest.amax(-1, keepdim=True) * (_ROOM / factors.max)
        )
        return ScaleGrid(unit, None, factors)
    return ScaleGrid(1.0 if factors == _E8M0 else unit_below(2 * largest, factors), least, factors)


def _are_sparse(factors: Format | None) -> bool:
    """Whether the largest factor is more than a sixteenth away from the next."""
    return factors is not None and factors.values[-1] / factors.values[-2] > 1 + 1 / 16 and factors.min > 0


def _searched(parts: Tensor, importance: Tensor, low: Tensor, high: Tensor, scheme: Scheme, grid: ScaleGrid) -> Steps:
    """For each group the best of some scales that clip more and more of it; for a tensor, the best for all."""
    fmt = scheme.format
    widest = _widest(low, high, fmt)
    tried = candidates(fmt) if scheme.clips else torch.ones(1)
    if _are_sparse(scheme.factors):
        tried = torch.cat([tried, _NEXT])
    best: Steps | None = None
    least = torch.full_like(widest, torch.inf)
    scales = [widest * factor for factor in tried]
    if not scheme.symmetric:
        scales.append(_balanced(low, high, fmt))
    for wanted in scales:
        scale = grid.snap(wanted)
        zero = None if scheme.symmetric else (-low / scale.maximum(widest)).round().clamp(fmt.min, fmt.max)
        wide, shift = scale[..., None], None if zero is None else zero[..., None]
        residual = parts - nearest_rows(parts, wide, fmt, shift) * wide
        error = (residual.square() * importance).sum(-1)
        if scheme.per_tensor and scheme.group is None:
            error = error.sum().expand_as(error)
        if best is None:
            best, least = Steps(scale, zero), error
            continue
        better = error < least
        least = torch.where(better, error, least)
        zeros = None if zero is None or best.zero is None else torch.where(better, zero, best.zero)
        best = Steps(torch.where(better, scale, best.scale), zeros)
    if best is None:
        raise AssertionError
    return best
