"""Improve rounded rows: round them anew on the scales that were found, refit these, move one weight at a time.

Error feedback rounds every column once and never looks back. This is coordinate descent on the same error
`(w - s q) H (w - s q)^T` from where it stopped, with the scales as more coordinates: a few per cent less error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor

from ptq.formats import Format
from ptq.scales import ScaleGrid
from ptq.solve.curvature import Curvature
from ptq.solve.feedback import columns, columns_first, each_column, to_grid
from ptq.solve.grouping import Grouping
from ptq.solve.roundings import RowRounding
from ptq.solve.solution import Solution

SWEEPS = 2


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
        return self._settled(found)

    def _anew(self, found: Solution, rounding: RowRounding) -> Solution:
        """Rounded on the scales of a solution."""
        scale, zero = self._wide(found.scale), None if found.zero is None else self._wide(found.zero)
        values, error = rounding.rows(self.rows, scale, self.format, self.curvature, zero)
        return found._replace(values=values.to(found.values.dtype), error=error)

    def _settled(self, found: Solution) -> Solution:
        """A better solution; no row gets worse than it came."""
        best, values, scale = found, found.values.float(), found.scale
        zero = None if found.zero is None else self._wide(found.zero)
        slope = self._residual(values, scale) @ self.curvature.moment
        for _ in range(SWEEPS):
            scale, slope = self._refitted(values, scale, slope)
            values, slope = self._swept(values, self._wide(scale), slope, zero)
            error = _errors(self._residual(values, scale), slope)
            best = best.better(best._replace(values=values.to(best.values.dtype), scale=scale, error=error))
        return best

    def _refitted(self, values: Tensor, scale: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """The scales of least error for these values, each by itself, where storing them leaves a row better off.

        The slope is what the error falls by where weights grow, `(w - s q) H`; with the scales comes the new one.
        """
        order, moment = self.curvature.order, self.curvature.moment
        product = values @ self.grouping.within(moment, order)
        power = self.grouping.sums(values * product, order)
        pull = self.grouping.sums(values * slope, order)
        fitted = self.grid.snap(scale + pull / power.clamp_min(torch.finfo(torch.float32).tiny))
        less = self._wide(scale - fitted)
        moved = slope + (less * product if self.grouping.count == 1 else (less * values) @ moment)
        residual = self._residual(values, fitted)
        better = (_errors(residual, moved) < _errors(self._residual(values, scale), slope))[..., None]
        return torch.where(better, fitted, scale), torch.where(better, moved, slope)

    def _swept(self, values: Tensor, scale: Tensor, slope: Tensor, zero: Tensor | None) -> tuple[Tensor, Tensor]:
        """Every weight, or span of them, once at its best value, the others as they are, and the slope then.

        Scale and zero point are by column.
        """
        put = to_grid(self.format, None if zero is None else columns_first(zero))
        steps, moved, slopes = columns_first(scale), columns_first(values), columns_first(slope)
        moment = self.curvature.moment

        def change(at: slice, here: Tensor) -> Tensor:
            step, old, root = columns(steps, at), moved[:, at].clone(), _root(moment[:, at, at])
            moved[:, at] = put(old + _solved(here, root) / step, at, root)
            return (moved[:, at] - old) * step

        each_column(slopes, moment, self.format.span, change, ahead=False)
        return moved.mT.contiguous(), slopes.mT.contiguous()

    def _residual(self, values: Tensor, scale: Tensor) -> Tensor:
        return self.rows - values * self._wide(scale)

    def _wide(self, groups: Tensor) -> Tensor:
        return self.grouping.wide(groups, self.curvature.order)


def _errors(residual: Tensor, slope: Tensor) -> Tensor:
    """`Curvature.errors` where the product with the moment is known."""
    return (residual * slope).sum(-1).clamp_min(0)


def _root(curve: Tensor) -> Tensor:
    """The lower Cholesky factor of `(g, k, k)`."""
    return curve.sqrt() if curve.shape[-1] == 1 else torch.linalg.cholesky(curve)


def _solved(slope: Tensor, root: Tensor) -> Tensor:
    """Where the slopes `(g, k, rows)` would be none, for the curve with that root."""
    return slope / root.square() if root.shape[-1] == 1 else torch.cholesky_solve(slope, root)
