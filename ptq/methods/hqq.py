"""Half-quadratic quantization (Badri and Shaji, 2023): steps for which most errors are small and few are large.

Without data, it minimises `sum |w - s (q - z)|^p` with `p < 1`. An error `e` for each weight splits that into two easy
parts: `|e|^p`, whose best `e` is a threshold, and the squares of `w - e - s (q - z)`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final, Self

import torch
from torch import Tensor

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


def half_quadratic(parts: Tensor, steps: Steps, scheme: Scheme, grid: ScaleGrid) -> Steps:
    """The scales of least error in the norm on the way from those of least squares, for every group by itself.

    The authors keep the scale of the range and fit a zero point that is no integer. Ours are integers of the format:
    whole steps move the grid nowhere, and the mean that they would follow stays below half a step. So the scale is
    fitted in their place, also where there is no zero point; the best `s` for given `e` and `q` is a quotient of sums.
    """
    together = scheme.per_tensor and scheme.group is None

    def total(x: Tensor) -> Tensor:
        """Of a group, or of the tensor where that has one scale."""
        return x.sum().expand(x.shape[:-1]) if together else x.sum(-1)

    def rounded(scale: Tensor) -> tuple[Tensor, Tensor]:
        """The numbers less zero points, and what is left of the weights, in steps."""
        wide, zero = scale[..., None], None if steps.zero is None else steps.zero[..., None]
        numbers = nearest_rows(parts, wide, scheme.format, zero)
        return numbers, parts / wide - numbers

    def norm(scale: Tensor) -> Tensor:
        return total((rounded(scale)[1] * scale[..., None]).abs().pow(P))

    best, least = steps.scale, norm(steps.scale)
    exact, stiffness = best, _STIFFNESS
    for _ in range(_ROUNDS):
        numbers, left = rounded(exact)
        slope = total(numbers * (numbers + left - shrunk(left, stiffness)))
        power = total(numbers.square())
        exact = torch.where((slope > 0) & (power > 0), exact * slope / power, exact)
        tried = grid.snap(exact)
        found = norm(tried)
        best, least = torch.where(found < least, tried, best), found.minimum(least)
        stiffness *= _STIFFENING
    return Steps(best, steps.zero)


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
