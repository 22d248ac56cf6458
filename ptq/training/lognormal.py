"""Gradients taken for lognormal: pruned by chance, then rounded to the best 6-bit float (arXiv:2006.08173).

With the mean `mu` and the deviation `sigma` of `ln |g|` over the numbers that are not 0:

- Pruning. What is below `tau = a e^mu` goes to `tau` in magnitude with the chance `|g| / tau`, else to 0, so that the
  mean stays. The part that goes to 0 is to be `sparsity`, which gives `a` (`sparsity_of`).
- Rounding. The larger `sigma`, the more bits for the exponent, by the thresholds of the paper's code.

The paper's claims are for these two apart, and for gradients only. Its code scales by `2^(-mu - 3)`, which clips; here
the largest magnitude stands on the largest number. Most of a lognormal tensor's square is in its few largest numbers,
and nothing of them is lost this way. At the other end pruning has left nothing below `tau`; from a `sigma` of about 3
on, in a million numbers, `tau` itself is below the range and goes to 0. A power of two would do as well for the error,
as floats are the same in every octave, and leave up to one octave unused.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Final, NamedTuple

import torch
from torch import Tensor

from ptq import formats
from ptq.errors import OptionError
from ptq.formats.minifloat import FloatFormat
from ptq.training.floats import Fields, nearest_floats
from ptq.training.grids import positive
from ptq.training.integers import stochastic_integers
from ptq.training.powers import uniform_like

SIX_BITS: Final = (
    FloatFormat.of("fp6_e1m4", 1, 4),
    FloatFormat.of("fp6_e2m3", 2, 3),
    FloatFormat.of("fp6_e3m2", 3, 2),
    FloatFormat.of("fp6_e4m1", 4, 1),
)
"""All that 6 bits can be with a sign and a mantissa; one bit of exponent makes an even grid."""

BOUNDS: Final = (0.3, 0.9, 2.0)
"""From which `sigma` of `log2 |g|` on the next of `SIX_BITS` is better: the paper's code takes the first bound above.

It rounds the difference from a bound up to a tenth before it asks whether that is positive, which changes nothing.
"""

_FINEST: Final = 0.05
"""Between two sigmas of the grid for which `a` is solved."""
_WIDEST: Final = 10.0
"""The last sigma of that grid: 14 octaves."""


def sparsity_of(log_a: Tensor, sigma: Tensor) -> Tensor:
    """The part of a lognormal tensor that pruning at `a e^mu` sets to 0, in float64; `sigma` is that of `ln |g|`.

    The paper's code, with erfc for 1 - erf, as large and nearly equal numbers would be subtracted:

        S = 1/2 + 1/2 erf(ln a / (sqrt2 sigma)) - 1/(2 a) e^(sigma^2 / 2) erfc(sigma / sqrt2 - ln a / (sqrt2 sigma))
    """
    place = log_a / (math.sqrt(2) * sigma)
    moved = torch.exp(sigma.square() / 2 - log_a) * torch.special.erfc(sigma / math.sqrt(2) - place)
    whole: Tensor = 1 + torch.special.erf(place) - moved
    return whole / 2


def log_threshold(sigma: Tensor, sparsity: float) -> Tensor:
    """`ln a` for that sparsity, to the last digits of float64, by halving an interval; one number for each sigma.

    Without deviation `a` is `1 / (1 - sparsity)`.
    """
    low, high = torch.full_like(sigma, -100.0), torch.full_like(sigma, 100.0)
    for _ in range(64):
        middle = (low + high) / 2
        below = sparsity_of(middle, sigma) < sparsity
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return torch.where(sigma == 0, -math.log1p(-sparsity), (low + high) / 2)


@cache
def _solved(sparsity: float) -> Tensor:
    return log_threshold(torch.arange(0, _WIDEST + _FINEST, _FINEST, dtype=torch.float64), sparsity)


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _grid(sparsity: float) -> Tensor:
    """Solved for once, and not within a graph."""
    return _solved(sparsity)


class Moments(NamedTuple):
    """Of `ln |g|` over the numbers that are not 0, without dimensions; 0 without such numbers."""

    mu: Tensor
    sigma: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Moments:
        """Of a tensor that is not empty."""
        magnitude = x.abs()
        found = magnitude > 0
        count = found.sum().clamp_min(1)
        logs = torch.where(found, magnitude, 1.0).log()
        mu = logs.sum() / count
        return cls(mu, (torch.where(found, logs - mu, 0.0).square().sum() / count).sqrt())


@dataclass(frozen=True)
class Lognormal:
    """Pruning to a sparsity, then rounding to nearest in one of `SIX_BITS`.

    The sparsity is ours, no printed default. Gradients with shorter tails than lognormal ones bear less of it: for 0.8
    of normal numbers `tau` is beyond the largest of them, and what is left keeps a cosine of 0.5 with them.

    Raises:
        OptionError: the sparsity is not between 0 and 1.

    """

    sparsity: float = 0.5

    def __post_init__(self) -> None:
        if not 0 < self.sparsity < 1:
            raise OptionError(f"the sparsity must be between 0 and 1, got {self.sparsity}; set it to 0.5")

    def threshold(self, moments: Moments) -> Tensor:
        """`tau`, interpolated between solutions of the equation; a sigma above the largest of these counts as that."""
        grid = _grid(self.sparsity).to(moments.sigma)
        place = (moments.sigma / _FINEST).clamp(0, len(grid) - 1)
        below = place.long().clamp(0, len(grid) - 2)  # once more, as NaN is clamped to nothing
        log_a = torch.lerp(grid.take(below), grid.take(below + 1), place - below)
        info = torch.finfo(log_a.dtype)
        return torch.exp(log_a + moments.mu).clamp(info.tiny, info.max)

    def pruned(self, x: Tensor, moments: Moments) -> Tensor:
        """Numbers of at least `tau` as they are, the others `tau`, 0 or `-tau`; any `tau` keeps the mean."""
        tau = self.threshold(moments)
        drawn = stochastic_integers(formats.get("int2"), x / tau, uniform_like(x))  # -1, 0 and 1
        return torch.where(x.abs() < tau, drawn.mul_(tau), x)

    def __call__(self, x: Tensor) -> Tensor:
        """Numbers of the format times a scale, in the shape and dtype of `x`; what is no number makes all NaN."""
        if not x.numel():
            return x
        moments = Moments.of(x)
        pruned = self.pruned(x, moments)
        octaves = moments.sigma / math.log(2)
        bits = (octaves >= octaves.new_tensor(BOUNDS)).sum()  # of the exponent, less the first
        fields = Fields.of(SIX_BITS, x.device).chosen(bits)
        scale = positive(pruned.abs().amax() / fields.top)
        return nearest_floats(fields, (pruned / scale).float()).to(x.dtype).mul_(scale)
