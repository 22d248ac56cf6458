"""Improve rounded rows: round them anew on the scales that were found, refit these, move one weight at a time.

Error feedback rounds every column once and never looks back. This is coordinate descent on the same error
`(w - s q) H (w - s q)^T` from where it stopped, with the scales as more coordinates: a few per cent less error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import reduce

import torch
from torch import Tensor

from ptq.formats import Format
from ptq.scales import ScaleGrid
from ptq.solve.curvature import Curvature
from ptq.solve.feedback import columns, spans, to_grid
from ptq.solve.grouping import Grouping
from ptq.solve.roundings import RowRounding
from ptq.solve.solution import Solution

SWEEPS = 2
_BLOCK = 64


@dataclass(frozen=True)
class Improver:
    """What rows `(groups, rows, in)`, in rounding order, are improved with; no row may change `shared` scales."""

    rows: Tensor
    format: Format
    curvature: Curvature
    grid: ScaleGrid
    grouping: Grouping
    shared: bool = False

    def solution(self, rounding: RowRounding, first: Callable[[RowRounding], Solution]) -> Solution:
        """That of a rounding; `first` gives the one that begins, with its scales, for a rounding that finds them."""
        if rounding.scales:
            found = reduce(Solution.better, (self.solution(each, first) for each in rounding.scales))
            found = found.better(self._anew(found, rounding))
        else:
            found = first(rounding)
        if not rounding.settles or self.shared:
            return found
        return settle(self.rows, found, self.format, self.curvature, self.grid, self.grouping)

    def _anew(self, found: Solution, rounding: RowRounding) -> Solution:
        """Rounded on the scales of a solution."""
        order = self.curvature.order
        scale = self.grouping.wide(found.scale, order)
        zero = None if found.zero is None else self.grouping.wide(found.zero, order)
        values = rounding.rows(self.rows, scale, self.format, self.curvature, zero)
        error = self.curvature.errors(self.rows - values * scale)
        return replace(found, values=values.to(found.values.dtype), error=error)


def settle(
    rows: Tensor, found: Solution, fmt: Format, curvature: Curvature, grid: ScaleGrid, grouping: Grouping
) -> Solution:
    """A better solution for rows `(groups, rows, in)` in rounding order; no row gets worse than it came."""
    best = found
    values, scale = found.values.float(), found.scale
    zero = None if found.zero is None else grouping.wide(found.zero, curvature.order)
    for _ in range(SWEEPS):
        scale = _refitted(rows, values, scale, curvature, grid, grouping)
        wide = grouping.wide(scale, curvature.order)
        values = _sweep(rows, values, wide, fmt, curvature, zero)
        error = curvature.errors(rows - values * wide)
        best = best.better(replace(best, values=values.to(best.values.dtype), scale=scale, error=error))
    return best


def _refitted(
    rows: Tensor, values: Tensor, scale: Tensor, curvature: Curvature, grid: ScaleGrid, grouping: Grouping
) -> Tensor:
    """The scales of least error for these values, each by itself, where storing them leaves a row better than it is."""
    order, tiny = curvature.order, torch.finfo(torch.float32).tiny
    residual = rows - values * grouping.wide(scale, order)
    slope = grouping.sums(values * (residual @ curvature.moment), order)
    power = grouping.sums(values * (values @ grouping.within(curvature.moment, order)), order).clamp_min(tiny)
    fitted = grid.snap(scale + slope / power)
    old, new = curvature.errors(residual), curvature.errors(rows - values * grouping.wide(fitted, order))
    return torch.where((new < old)[..., None], fitted, scale)


def _sweep(
    rows: Tensor, values: Tensor, scale: Tensor, fmt: Format, curvature: Curvature, zero: Tensor | None
) -> Tensor:
    """Every weight, or span of them, once at its best value, the others as they are; scale and zero point by column."""
    put = to_grid(fmt, zero)
    values = values.clone()
    moment = curvature.moment
    slope = (rows - values * scale) @ moment
    for start in range(0, rows.shape[-1], _BLOCK):
        stop = min(start + _BLOCK, rows.shape[-1])
        here, within = slope[:, :, start:stop].clone(), moment[:, start:stop, start:stop]
        before = values[:, :, start:stop].clone()
        for at in spans(start, stop, fmt.span):
            inside, old, step = slice(at.start - start, at.stop - start), values[:, :, at], columns(scale, at)
            root = _root(moment[:, at, at])
            new = put(old + _solved(here[:, :, inside], root) / step, at, root)
            here -= ((new - old) * step) @ within[:, inside]
            values[:, :, at] = new
        moved = values[:, :, start:stop] - before
        moved *= scale[..., start:stop] if scale.shape[-1] > 1 else scale
        slope -= moved @ moment[:, start:stop, :]
    return values


def _root(curve: Tensor) -> Tensor:
    """The lower Cholesky factor of `(g, k, k)`."""
    return curve.sqrt() if curve.shape[-1] == 1 else torch.linalg.cholesky(curve)


def _solved(slope: Tensor, root: Tensor) -> Tensor:
    """Where the slopes `(g, rows, k)` would be none, for the curve with that root."""
    return slope / root.square() if root.shape[-1] == 1 else torch.cholesky_solve(slope.mT, root).mT
