"""Rows on their grids, and the better of two ways to put them there."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor


@dataclass(frozen=True)
class Solution:
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
        return replace(
            self,
            values=torch.where(take[..., None], other.values, self.values),
            scale=torch.where(take[..., None], other.scale, self.scale),
            error=torch.where(take, other.error, self.error),
        )
