"""Rows on their grids, and the better of two ways to put them there."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Solution:
    """`scale * values`, and the power of the output error that remains.

    Values are numbers of a format `(groups, rows, in)`; scale (one of a ScaleGrid) and error `(groups, rows)`, float32.
    """

    values: Tensor
    scale: Tensor
    error: Tensor

    def dequantized(self) -> Tensor:
        """The rows, `(groups, rows, in)`."""
        return self.values * self.scale[..., None]

    def better(self, other: Solution) -> Solution:
        """Every row from the one that has the smaller error there; of equals, this one's."""
        take = other.error < self.error
        return Solution(
            torch.where(take[..., None], other.values, self.values),
            torch.where(take, other.scale, self.scale),
            torch.where(take, other.error, self.error),
        )
