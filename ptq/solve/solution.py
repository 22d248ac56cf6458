"""Rows on their grids, and the better of two ways to put them there."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from ptq.solve.curvature import Curvature


class Rounded(NamedTuple):
    """Numbers of a format `(groups, rows, in)`, less zero points, and the power of what the output is off by.

    The error is `(groups, rows)`, that of `Curvature.errors`.
    """

    values: Tensor
    error: Tensor

    @classmethod
    def of(cls, values: Tensor, rows: Tensor, scale: Tensor, curvature: Curvature) -> Rounded:
        """Numbers for rows in rounding order, with the error that they have."""
        residual = values * scale
        return cls(values, curvature.errors(torch.sub(rows, residual, out=residual), inplace=True))

    def better(self, other: Rounded) -> Rounded:
        """Every row from the one that has the smaller error there; of equals, this one's."""
        take = other.error < self.error
        return Rounded(
            torch.where(take[..., None], other.values, self.values), torch.where(take, other.error, self.error)
        )


class Solution(NamedTuple):
    """`scale * values`, and the power of the output error that remains.

    Values are numbers of a format `(groups, rows, in)`, the zero point taken off; scale (one of a ScaleGrid) and zero
    point are `(groups, rows, blocks)`, error `(groups, rows)`, float32.
    """

    values: Tensor
    scale: Tensor
    error: Tensor
    zero: Tensor | None = None

    def better(self, other: Solution) -> Solution:
        """Every row from the one that has the smaller error there; of equals, this one's. Zero points are the same."""
        take = other.error < self.error
        return self._replace(
            values=torch.where(take[..., None], other.values, self.values),
            scale=torch.where(take[..., None], other.scale, self.scale),
            error=torch.where(take, other.error, self.error),
        )
