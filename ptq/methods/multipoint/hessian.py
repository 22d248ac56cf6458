"""Rounding with error feedback: GPTQ on a per-row integer grid (arXiv:2210.17323, section 3).

Every row `w` of a weight matrix is rounded to integers `q` on its own grid `scale * {-limit..limit}` so that the
output error `(w - scale q) H (w - scale q)^T` is small, `H` being the second moment of the inputs.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

DAMPING = 0.01
"""Part of the mean diagonal that is added to the diagonal, as in the paper's code."""

_BLOCK = 64


@dataclass(frozen=True)
class Curvature:
    """A second moment prepared for rounding: `(groups, in, in)` each, in the order in which columns are rounded."""

    moment: Tensor
    factor: Tensor
    order: Tensor

    @classmethod
    def of(cls, moment: Tensor, damping: float = DAMPING) -> Curvature:
        """Prepare a moment `(groups, in, in)`; inputs that were never active are rounded to nearest.

        The factor is the upper Cholesky factor of the inverse of the damped moment; columns go from the largest
        to the smallest diagonal ("act-order").
        """
        moment = moment.double()
        diagonal = moment.diagonal(dim1=-2, dim2=-1)
        order = diagonal.argsort(dim=-1, descending=True, stable=True)
        moment = _permuted(moment, order)
        diagonal = moment.diagonal(dim1=-2, dim2=-1)
        mean = diagonal.mean(dim=-1, keepdim=True)
        added = torch.where(diagonal > 0, damping * mean, torch.ones_like(diagonal))
        factor = _inverse_factor(moment + torch.diag_embed(added), mean)
        return cls(moment.float(), factor.float(), order)

    def errors(self, residual: Tensor) -> Tensor:
        """`r H r^T` for residuals `(groups, rows, in)` given in rounding order; `(groups, rows)`."""
        return ((residual @ self.moment) * residual).sum(-1).clamp_min(0)


def _permuted(moment: Tensor, order: Tensor) -> Tensor:
    rows = moment.gather(1, order[:, :, None].expand_as(moment))
    return rows.gather(2, order[:, None, :].expand_as(moment))


def _inverse_factor(damped: Tensor, mean: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse; near-singular moments get as much more damping as they need."""
    identity = torch.eye(damped.shape[-1], dtype=damped.dtype, device=damped.device)
    extra = torch.zeros_like(mean)
    while True:
        lower, failed = torch.linalg.cholesky_ex(damped + extra[..., None] * identity)
        if not failed.any():
            inverse = torch.cholesky_inverse(lower)
            upper, failed = torch.linalg.cholesky_ex(inverse, upper=True)
            if not failed.any():
                factor: Tensor = upper
                return factor
        grown = torch.where(extra > 0, extra * 10, mean.clamp_min(1e-30) * DAMPING)
        extra = torch.where(failed[:, None] > 0, grown, extra)


def round_rows(weight: Tensor, scale: Tensor, limit: Tensor, curvature: Curvature) -> Tensor:
    """Integers of rows `(groups, rows, in)` in rounding order, grids `(groups, rows)`; same shape as the weight."""
    work = weight.clone()
    rounded = torch.empty_like(weight)
    columns = weight.shape[-1]
    for start in range(0, columns, _BLOCK):
        stop = min(start + _BLOCK, columns)
        block = work[:, :, start:stop]
        factor = curvature.factor[:, start:stop, start:stop]
        feedback = torch.empty_like(block)
        for i in range(stop - start):
            column = block[:, :, i]
            q = (column / scale).round().clamp(-limit, limit)
            rounded[:, :, start + i] = q
            error = (column - q * scale) / factor[:, i, i, None]
            feedback[:, :, i] = error
            if i + 1 < stop - start:
                block[:, :, i + 1 :] -= error[:, :, None] * factor[:, None, i, i + 1 :]
        if stop < columns:
            work[:, :, stop:] -= feedback @ curvature.factor[:, start:stop, stop:]
    return rounded
