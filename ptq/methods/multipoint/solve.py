"""Find the scale and the integers of every row: of the candidates of its scale the best wins and is improved."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from ptq.methods.multipoint.hessian import Curvature, nearest_rows, round_rows
from ptq.methods.multipoint.settle import settle

_MOST_ELEMENTS = 1 << 24
_COARSE = torch.linspace(1.0, 0.45, 12)
_FINE = torch.linspace(1.0, 0.85, 4)
_FINE_LIMIT = 16
"""From here on a grid is so fine that clipping its range cannot gain much."""


@dataclass(frozen=True)
class Solution:
    """Rows on their grids: `scale * integers`, and the power of the output error that remains.

    Integers are int8 `(groups, rows, in)`; scale (a bfloat16 number in float32) and error `(groups, rows)`.
    """

    integers: Tensor
    scale: Tensor
    error: Tensor

    def dequantized(self) -> Tensor:
        """The rows, `(groups, rows, in)`."""
        return self.integers * self.scale[..., None]


def solve(
    weight: Tensor, limit: int, curvature: Curvature, *, feedback: bool, least_scale: Tensor | None = None
) -> Solution:
    """Quantize rows `(groups, rows, in)` to integers up to `limit`; scales are bfloat16 before anything is rounded."""
    rows = curvature.arranged(weight)
    widest = rows.abs().amax(-1) / limit
    shrink = _COARSE if limit < _FINE_LIMIT else _FINE
    together = max(1, _MOST_ELEMENTS // max(rows.numel(), 1))
    best: Solution | None = None
    for factors in torch.split(shrink, together):
        scale = _storable(widest * factors[:, None, None], least_scale)
        found = _best_of(rows, scale, limit, curvature, feedback=feedback)
        best = found if best is None else _better(best, found)
    if best is None:
        raise AssertionError
    integers, scale, error = best.integers, best.scale, best.error
    if feedback:
        snap = functools.partial(_storable, least=least_scale)
        integers, scale, error = settle(rows, integers.float(), scale, limit, curvature, snap)
    return Solution(curvature.restored(integers).to(torch.int8), scale, error)


def _best_of(rows: Tensor, scale: Tensor, limit: int, curvature: Curvature, *, feedback: bool) -> Solution:
    """Round with every scale of `(candidates, groups, rows)` at once, and keep each row's best."""
    candidates, groups, count = scale.shape
    many = rows.repeat(1, candidates, 1)
    scales = scale.transpose(0, 1).reshape(groups, candidates * count)
    integers = round_rows(many, scales, limit, curvature) if feedback else nearest_rows(many, scales, limit)
    error = curvature.errors(many - integers * scales[..., None]).reshape(groups, candidates, count)
    least, winner = error.min(dim=1)
    integers = integers.reshape(groups, candidates, count, -1)
    chosen = integers.gather(1, winner[:, None, :, None].expand(-1, 1, -1, integers.shape[-1]))[:, 0]
    return Solution(chosen.to(torch.int8), scale.gather(0, winner[None])[0], least)


def _better(one: Solution, other: Solution) -> Solution:
    take = other.error < one.error
    return Solution(
        torch.where(take[..., None], other.integers, one.integers),
        torch.where(take, other.scale, one.scale),
        torch.where(take, other.error, one.error),
    )


def _storable(scale: Tensor, least: Tensor | None) -> Tensor:
    """Snap scales to bfloat16, as they are stored; rows of zeros get 1."""
    if least is not None:
        scale = scale.maximum(least)
    scale = scale.bfloat16().float()
    return torch.where(scale >= torch.finfo(torch.float32).tiny, scale, torch.ones_like(scale))
