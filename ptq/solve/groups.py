"""Scales that groups of weights share, zero points, scales of whole tensors: found first, then rounded on."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ptq import formats
from ptq.chunks import in_chunks
from ptq.formats import Format
from ptq.scales import ScaleGrid, unit_below
from ptq.scheme import Scheme
from ptq.solve.curvature import Curvature
from ptq.solve.grouping import Grouping
from ptq.solve.roundings import RowRounding
from ptq.solve.search import candidates, compact, limits, scale_grid
from ptq.solve.settle import Improver
from ptq.solve.solution import Solution
from ptq.solve.steps import Steps, best_of, errors

_E8M0 = formats.get("e8m0")
_NEXT = torch.tensor([1.25, 1.5])
"""Among scales that are far apart, whole multiples of one or powers of two, the nearest is often too small; these
reach the next."""

_ROOM = 1.02
"""What the scale of a row has to spare, as the nearest one of 8 bits may be too small by that."""


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
    grouping, fmt = Grouping.of(weight.shape[-1], scheme.group), scheme.format
    ends = _ends(weight, scheme)
    every = grid or _grid(_widest(*ends, fmt), weight, scheme, curvature, least)
    steps = _searched(weight, ends, scheme, curvature, every, refine)

    def rounded(at: slice) -> Solution:
        rows, own = curvature.arranged(weight[:, at]), steps.of_rows(at)
        scale = grouping.wide(own.scale, curvature.order)
        zero = None if own.zero is None else grouping.wide(own.zero, curvature.order)

        def first(rounding: RowRounding) -> Solution:
            values, error = rounding.rows(rows, scale, fmt, curvature, zero)
            return Solution(compact(values, fmt), own.scale, error, own.zero)

        improver = Improver(rows, fmt, curvature, every.of_rows(at), grouping, _is_shared(scheme))
        found = improver.solution(rounding, first)
        return found._replace(values=curvature.restored(found.values))

    return in_chunks(weight, rounded, whole=not rounding.is_by_number(curvature)), every


def grid_of(weight: Tensor, scheme: Scheme, curvature: Curvature, least: Tensor | None = None) -> ScaleGrid:
    """The scales that rows `(groups, rows, in)` can have by such a scheme."""
    return _grid(_widest(*_ends(weight, scheme), scheme.format), weight, scheme, curvature, least)


class _Ends(NamedTuple):
    """The least and the largest of what shares a scale, and 0; `(g, rows, groups)`."""

    low: Tensor
    high: Tensor


def _is_shared(scheme: Scheme) -> bool:
    """Whether all weights have one scale."""
    return scheme.per_tensor and scheme.group is None


def _ends(weight: Tensor, scheme: Scheme) -> _Ends:
    grouping = Grouping.of(weight.shape[-1], scheme.group)

    def ends(at: slice) -> _Ends:
        parts = grouping.split(weight[:, at])
        return _Ends(parts.amin(-1).clamp_max(0), parts.amax(-1).clamp_min(0))

    low, high = in_chunks(weight, ends)
    if _is_shared(scheme):
        return _Ends(low.min().expand_as(low), high.max().expand_as(high))
    return _Ends(low, high)


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


def _searched(
    weight: Tensor, ends: _Ends, scheme: Scheme, curvature: Curvature, grid: ScaleGrid, refine: Refine | None
) -> Steps:
    """For each group the best of some scales that clip more and more of it, refined; for a tensor, the best for all."""
    grouping, fmt = Grouping.of(weight.shape[-1], scheme.group), scheme.format
    importance = None
    if curvature.known is not None or not grouping.is_even:  # what is padded may be rounded to more than 0
        importance = grouping.split(curvature.restored(curvature.diagonal[:, None, :]))

    if _is_shared(scheme):
        parts, tried = grouping.split(weight), _tried(ends, scheme, grid)
        total = [error.sum().expand_as(error) for error in errors(parts, tried, fmt, importance)]
        best = best_of(tried, torch.stack(total))
        return best if refine is None else refine(parts, best, scheme, grid)

    def searched(at: slice) -> Steps:
        parts, own = grouping.split(weight[:, at]), grid.of_rows(at)
        tried = _tried(_Ends(*(end[:, at] for end in ends)), scheme, own)
        best = best_of(tried, errors(parts, tried, fmt, importance))
        return best if refine is None else refine(parts, best, scheme, own)

    return in_chunks(weight, searched)


def _tried(ends: _Ends, scheme: Scheme, grid: ScaleGrid) -> list[Steps]:
    """What the search tries."""
    fmt, widest = scheme.format, _widest(*ends, scheme.format)
    factors = candidates(fmt) if scheme.clips else torch.ones(1)
    if _are_sparse(scheme.factors):
        factors = torch.cat([factors, _NEXT])
    wanted = [widest * factor for factor in factors]
    if not scheme.symmetric:
        wanted.append(_balanced(*ends, fmt))
    scales = grid.snap(torch.stack(wanted))
    if scheme.symmetric:
        return [Steps(scale) for scale in scales]
    zeros = (-ends.low / scales.maximum(widest)).round().clamp(fmt.min, fmt.max)
    return [Steps(*each) for each in zip(scales, zeros, strict=True)]
