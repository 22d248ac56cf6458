"""Half-quadratic quantization (Badri and Shaji, 2023): steps for which most errors are small and few are large.

Without data, it minimises `sum |w - s (q - z)|^p` with `p < 1`. An error `e` for each weight splits that into two easy
parts: `|e|^p`, whose best `e` is a threshold, and the squares of `w - e - s (q - z)`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Final, Self

import torch
from torch import Tensor

from ptq.chunks import weight_chunks
from ptq.errors import OptionError
from ptq.method import OneTerm, Request
from ptq.scales import ScaleGrid
from ptq.scheme import Scheme
from ptq.solve import Refine, Steps
from ptq.solve.feedback import nearest_rows

P: Final = 0.7
"""The norm, the authors' choice."""

_STIFFNESS: Final = 1.0
"""What squares weigh against the norm at first (beta), errors being counted in steps."""

_STIFFENING: Final = 1.2
_ROUNDS: Final = 20

Made = Callable[[Tensor, Tensor, Tensor], Tensor]
"""A number for each weight, of its number less zero point, what is left of it in steps, and its scale."""


def half_quadratic(parts: Tensor, steps: Steps, scheme: Scheme, grid: ScaleGrid) -> Steps:
    """The scales of least error in the norm on the way from those of least squares, for every group by itself.

    The authors keep the scale of the range and fit a zero point that is no integer. Ours are integers of the format:
    whole steps move the grid nowhere, and the mean that they would follow stays below half a step. So the scale is
    fitted in their place, also where there is no zero point; the best `s` for given `e` and `q` is a quotient of sums.
    """
    together = scheme.per_tensor and scheme.group is None

    def summed(scale: Tensor, *made: Made) -> list[Tensor]:
        """What is made of the weights, added up for a group, or for the tensor where that has one scale."""
        found = []
        for at in weight_chunks(parts):
            some, (own, zero) = parts[:, at], Steps(scale, steps.zero).of_rows(at)
            wide = own[..., None]
            numbers = nearest_rows(some, wide, scheme.format, None if zero is None else zero[..., None])
            left = some / wide - numbers
            found.append([each(numbers, left, wide).sum(-1) for each in made])
        sums = (torch.cat(each, 1) for each in zip(*found, strict=True))
        return [each.sum().expand_as(each) if together else each for each in sums]

    def norm(scale: Tensor) -> Tensor:
        return summed(scale, lambda _, left, wide: (left * wide).abs().pow(P))[0]

    best, least = steps.scale, norm(steps.scale)
    exact, stiffness = best, _STIFFNESS
    for _ in range(_ROUNDS):
        pulled = partial(_pulled, stiffness=stiffness)
        slope, power = summed(exact, pulled, lambda numbers, *_: numbers.square())
        exact = torch.where((slope > 0) & (power > 0), exact * slope / power, exact)
        tried = grid.snap(exact)
        found = norm(tried)
        best, least = torch.where(found < least, tried, best), found.minimum(least)
        stiffness *= _STIFFENING
    return Steps(best, steps.zero)


def _pulled(numbers: Tensor, left: Tensor, _: Tensor, stiffness: float) -> Tensor:
    return numbers * (numbers + left - shrunk(left, stiffness))


def shrunk(x: Tensor, stiffness: float) -> Tensor:
    """The generalized soft threshold, near the least of `|e|^p + stiffness / 2 (e - x)^2`."""
    magnitude = x.abs()
    threshold = magnitude.clamp_min(torch.finfo(x.dtype).tiny).pow(P - 1) / stiffness
    return x.sign() * (magnitude - threshold).clamp_min(0)


@dataclass(frozen=True)
class Hqq(OneTerm):
    """It works without data; with data, what it does to the mean of an output goes into the bias."""

    ROUNDING: ClassVar[str] = "nearest"
    REFINE: ClassVar[Refine | None] = staticmethod(half_quadratic)

    @classmethod
    def of(cls, request: Request) -> Self:
        """Any scheme whose scales are free.

        Raises:
            OptionError: they follow from the largest weight.

        """
        if not request.scheme.clips:
            raise OptionError(
                f"hqq fits scales, and those of {request.scheme.describe()} follow from its largest weight; "
                f"use --method rtn"
            )
        return super().of(request)


METHOD = Hqq
