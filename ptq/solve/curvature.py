"""What an error in a row does to its output: `r H r^T`, with `H` the second moment of the inputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ptq.chunks import weight_chunks

_DAMPING = 2.0
_LEAST_DAMPING = 0.01
"""What the paper's code always has."""

_SINGULAR = 0.01
_SAFE_EXPONENT = 60
"""Moments between the powers of two with this exponent leave room in float32 for weights and sums."""


@dataclass(frozen=True)
class Curvature:
    """A second moment prepared for rounding: `(groups, in, in)` each, in the order in which columns are rounded."""

    order: Tensor
    known: tuple[Tensor, Tensor] | None = None
    """The moment and its factor; without them both are the identity, which is made only where it is needed."""

    @property
    def moment(self) -> Tensor:
        """The moment in rounding order."""
        return self._identity if self.known is None else self.known[0]

    @property
    def factor(self) -> Tensor:
        """The upper Cholesky factor of its inverse."""
        return self._identity if self.known is None else self.known[1]

    @property
    def diagonal(self) -> Tensor:
        """That of the moment, `(groups, in)`."""
        return torch.ones(self.order.shape) if self.known is None else self.moment.diagonal(dim1=-2, dim2=-1)

    @cached_property
    def _identity(self) -> Tensor:
        groups, columns = self.order.shape
        return torch.eye(columns).expand(groups, -1, -1)

    @classmethod
    def of(cls, moment: Tensor, count: int, span: int = 1) -> Curvature:
        """Prepare a moment `(groups, in, in)` of `count` vectors; inputs that were never active are rounded to nearest.

        A part of the mean diagonal is added to the diagonal, of the error measure as well as of the feedback: shrinkage
        towards independent inputs of equal power, the prior that a small sample needs. The part is
        `2 sqrt(in / count)`, as the eigenvalues of a sample's moment are off by the square root of that ratio. On
        held-out photographs it beat 0.3 for all layers.

        The factor is the upper Cholesky factor of the inverse of the damped moment; columns go from the largest
        to the smallest diagonal ("act-order"), `span` neighbours at a time, and what is no whole span last.

        A moment that float32 could not hold is taken in units of another power of two: only ratios of errors matter.
        """
        moment = _in_reach(moment.double())
        diagonal = moment.diagonal(dim1=-2, dim2=-1)
        order = _order(diagonal, span)
        moment = _permuted(moment, order)
        diagonal = moment.diagonal(dim1=-2, dim2=-1)  # a view
        mean = diagonal.mean(dim=-1, keepdim=True)
        damping = max(_LEAST_DAMPING, _DAMPING * (moment.shape[-1] / count) ** 0.5)
        added = torch.where(diagonal > 0, damping * mean, torch.ones_like(diagonal))
        diagonal += added
        factor = _inverse_factor(moment, mean).float()
        return cls(order, (moment.float(), factor))

    @classmethod
    def unknown(cls, groups: int, columns: int) -> Curvature:
        """Independent inputs of equal power: what is assumed without data; errors are plain squares."""
        return cls(torch.arange(columns).expand(groups, -1))

    def keeps(self, span: int) -> bool:
        """Whether so many neighbours stay together in the order, so that they can be rounded as a vector."""
        columns = self.order.shape[-1]
        together = self.order[:, : columns - columns % span].reshape(len(self.order), -1, span)
        wanted = together[..., :1] // span * span + torch.arange(span)
        return bool((together == wanted).all())

    def arranged(self, weight: Tensor) -> Tensor:
        """Rows `(groups, rows, in)` in rounding order; the weight itself where that is its own, in one piece."""
        if self.known is None:
            return weight.contiguous()
        return weight.gather(2, self.order[:, None, :].expand_as(weight))

    def restored(self, rows: Tensor) -> Tensor:
        """The inverse of `arranged`."""
        if self.known is None:
            return rows
        return torch.empty_like(rows).scatter_(2, self.order[:, None, :].expand_as(rows), rows)

    def errors(self, residual: Tensor, *, inplace: bool = False) -> Tensor:
        """`r H r^T` for residuals `(groups, rows, in)` given in rounding order; `(groups, rows)`.

        They may be overwritten where it is `inplace`.
        """
        weighted = residual if self.known is None else residual @ self.moment
        return torch.mul(weighted, residual, out=residual if inplace else None).sum(-1).clamp_min(0)

    def power(self, weight: Tensor) -> Tensor:
        """What the output of rows `(groups, rows, in)` is, each by itself: the error of zeros; `(groups, rows)`."""
        parts = weight_chunks(weight) if self.known is None else [slice(None)]
        return torch.cat([self.errors(self.arranged(weight[:, at])) for at in parts], 1)


def _order(diagonal: Tensor, span: int) -> Tensor:
    """The largest spans of `(groups, in)` first, int64."""
    columns = diagonal.shape[-1]
    whole = columns - columns % span
    first = diagonal[:, :whole].reshape(len(diagonal), -1, span).sum(-1).argsort(dim=-1, descending=True, stable=True)
    spans = first[..., None] * span + torch.arange(span)
    rest = torch.arange(whole, columns).expand(len(diagonal), -1)
    return torch.cat([spans.flatten(1), rest], 1)


def _in_reach(moment: Tensor) -> Tensor:
    largest = float(moment.diagonal(dim1=-2, dim2=-1).max())
    exponent = math.frexp(largest)[1]
    return moment if abs(exponent) <= _SAFE_EXPONENT else moment * 2.0**-exponent


def _permuted(moment: Tensor, order: Tensor) -> Tensor:
    rows = moment.gather(1, order[:, :, None].expand_as(moment))
    return rows.gather(2, order[:, None, :].expand_as(moment))


def _inverse_factor(damped: Tensor, mean: Tensor) -> Tensor:
    """The upper Cholesky factor of the inverse; near-singular moments are given as much more damping as they need."""
    extra = torch.zeros_like(mean)
    while True:
        lower, failed = torch.linalg.cholesky_ex(damped)
        if not failed.any():
            inverse = torch.cholesky_inverse(lower)
            del lower
            upper, failed = torch.linalg.cholesky_ex(inverse, upper=True)
            if not failed.any():
                factor: Tensor = upper
                return factor
        grown = torch.where(extra > 0, extra * 10, mean.clamp_min(1e-30) * _SINGULAR)
        grown = torch.where(failed[:, None] > 0, grown, extra)
        damped.diagonal(dim1=-2, dim2=-1).add_(grown - extra)
        extra = grown
