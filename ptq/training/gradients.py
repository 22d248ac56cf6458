"""Rules for the tensors of the backward pass: a format, a way to its scale, and a rounding.

LUQ (arXiv:2112.10769, equations 10 to 16) is the format [1,3,0] with the largest magnitude on its largest number, and
stochastic rounding, whose first step, from 0 to the smallest number, is the stochastic underflow.

The rules take float32 or float64 of any shape and return the numbers that the format stands for. A NaN or an infinity
stays one or makes all numbers NaN, so that loss scaling and anomaly detection see it. Draws come from torch's global
generator.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import ClassVar

import torch
from torch import Tensor

from ptq import formats
from ptq.formats import Format
from ptq.rounding import Rounding, is_integer_grid, nearest, stochastic
from ptq.squeeze import truncate
from ptq.training.grids import positive
from ptq.training.integers import stochastic_integers
from ptq.training.powers import HALF, are_powers, drawn_powers, stochastic_powers, uniform_like


class Alignment(Enum):
    """Which magnitude the largest number of a format stands for."""

    MAXIMUM = auto()
    """The largest of the tensor: nothing is clipped, and no power is left unused."""
    POWER_ABOVE = auto()
    """The power of two at or above it: nothing is clipped, and the scale is an exponent (appendix A.7)."""
    POWER_BELOW = auto()
    """The power of two at or below it: what is above is clipped, by up to a half."""

    def top(self, largest: Tensor) -> Tensor:
        """That magnitude; infinities and NaN stay."""
        if self is Alignment.MAXIMUM:
            return largest
        fraction, exponent = torch.frexp(largest)  # from a half up to 1
        below = torch.ldexp(torch.ones_like(fraction), exponent - 1)
        power = torch.where(fraction > 0.5, 2 * below, below) if self is Alignment.POWER_ABOVE else below
        return torch.where(largest.isfinite() & (largest > 0), power, largest)


@dataclass(frozen=True)
class Aligned:
    """A format whose largest number stands for the largest magnitude, or a power of two near it.

    Without `underflow` what is below the smallest number goes to it or to 0 by which is nearer, however the rest is
    rounded. `hindsight` is the part of a maximum that is remembered from step to step (`remembered`); a tensor is then
    aligned to the maximum of those before it, and clipped above.
    """

    fmt: str = "luq_fp4"
    rounding: Rounding = Rounding.STOCHASTIC
    alignment: Alignment = Alignment.MAXIMUM
    underflow: bool = True
    hindsight: float | None = None

    def scale(self, largest: Tensor) -> Tensor:
        """What numbers of the format are multiplied with; positive for zeros too, and never subnormal."""
        top = self.alignment.top(largest)
        return positive(top / formats.get(self.fmt).max)

    def __call__(self, x: Tensor, largest: Tensor | None = None) -> Tensor:
        """Numbers of the format times the scale, in the shape and dtype of `x`; `largest` is its own by default."""
        if not x.numel():
            return x
        scale = self.scale(largest_magnitude(x) if largest is None else largest)
        fmt = formats.get(self.fmt)
        if self.rounding is not Rounding.STOCHASTIC:
            return self._nearest(fmt, x / scale).mul_(scale)
        if self.underflow and are_powers(fmt):
            return drawn_powers(fmt, x, scale)
        return self._drawn(fmt, x / scale).mul_(scale)

    def _nearest(self, fmt: Format, scaled: Tensor) -> Tensor:
        away = self.rounding is Rounding.NEAREST_AWAY
        if away and scaled.dtype == torch.float32 and are_powers(fmt):
            return stochastic_powers(fmt, scaled, scaled.new_tensor(HALF))
        return nearest(fmt, away=away)(scaled)

    def _drawn(self, fmt: Format, scaled: Tensor) -> Tensor:
        uniform = uniform_like(scaled)
        if not self.underflow:
            smallest = min(value for value in fmt.values if value > 0)
            uniform.masked_fill_(scaled.abs() < smallest, 0.5)
        if are_powers(fmt):
            return stochastic_powers(fmt, scaled.float(), uniform).to(scaled.dtype)
        if is_integer_grid(fmt):
            return stochastic_integers(fmt, scaled, uniform)
        return stochastic(fmt, scaled, uniform.double())


def largest_magnitude(x: Tensor) -> Tensor:
    """Of a tensor with numbers in it, in one pass; NaN where one is."""
    low, high = torch.aminmax(x)
    return torch.maximum(-low, high)


def remembered(running: Tensor, largest: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """Hindsight maximum (equation 18): what to align a tensor to, and what to remember for the next.

    `running` is what was remembered, negative at first; then the tensor's own `largest` serves. One that is no number
    is aligned to, so that it shows, and forgotten.
    """
    estimate = torch.where((running < 0) | ~largest.isfinite(), largest, running)
    following = torch.where(largest.isfinite(), (1 - eta) * largest + eta * estimate, running)
    return estimate, following


@dataclass(frozen=True)
class Fixed:
    """A format with one scale for all tensors, rounded to nearest even; it saturates, but not infinities."""

    fmt: str
    scale: float = 1.0

    def __call__(self, x: Tensor) -> Tensor:
        """Numbers of the format times the scale, in the shape and dtype of `x`."""
        rounded = nearest(formats.get(self.fmt))(x / self.scale).mul_(self.scale)
        return torch.where(x.isinf(), x, rounded)


@dataclass(frozen=True)
class Squeezed:
    """S2FP8, with the statistics of each tensor (arXiv:2001.05674, equation 5)."""

    fmt: ClassVar = "fp8_e5m2"

    def __call__(self, x: Tensor) -> Tensor:
        """What is left of `x`, in its shape and dtype."""
        return truncate(x)
