"""S2FP8 (arXiv:2001.05674): a tensor shifted and squeezed in the logarithm until it fills the range of fp8_e5m2.

`log2 |Y| = alpha log2 |X| + beta` has the mean 0 and the maximum 15 over the numbers that are not 0 (section 3.2). All
of it is computed in the logarithm: `|X|^alpha` itself overflows where a tensor is narrow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ptq import formats
from ptq.formats.minifloat import SQUEEZED_EXPONENT
from ptq.rounding import round_to

_BASE = formats.get("fp8_e5m2")
_LEAST = min(value for value in _BASE.values if value > 0)
_EQUAL = 2.0**-40
"""Below this many octaves between maximum and mean the magnitudes are one, and their sum was not exact."""


class Squeeze(NamedTuple):
    """The two numbers of a tensor: `alpha` squeezes, `beta` shifts; float64 without dimensions."""

    alpha: Tensor
    beta: Tensor

    @classmethod
    def of(cls, x: Tensor) -> Squeeze:
        """The statistics of a tensor; without them where magnitudes are all equal, which become 1, or all 0."""
        magnitude = x.detach().double().abs()
        found = magnitude > 0
        logs = torch.where(found, magnitude, 1.0).log2()
        mean = logs.sum() / found.sum().clamp_min(1)
        most = torch.where(found, logs, -torch.inf).max() if x.numel() else mean
        most = torch.where(most.isneginf(), 0.0, most)
        alpha = _exponent(most - mean)
        return cls(alpha, torch.where(most - mean <= _EQUAL, -most, -alpha * mean))

    def forth(self, x: Tensor) -> Tensor:
        """`Y` in float64."""
        return _powers(x.double(), lambda logs: self.alpha * logs + self.beta)

    def back(self, y: Tensor) -> Tensor:
        """`X` of `Y`, in float64."""
        return _powers(y.double(), lambda logs: (logs - self.beta) / self.alpha)


class Stored(NamedTuple):
    """What S2FP8 stores of a tensor: numbers of fp8_e5m2, as floats, and two numbers without dimensions.

    Those are `alpha` and `beta` in float64, `alpha` and the largest magnitude in float32, as `y` is in.
    """

    y: Tensor
    alpha: Tensor
    other: Tensor


def truncate(x: Tensor) -> Tensor:
    """What is left of a tensor that is stored in S2FP8, in its own type (equation 5).

    Of float64 it is computed in float64, of narrower types in float32. `log2 |Y|` is then off by less than
    `alpha 2^-19 + 2^-16` where FP8 has numbers, and half a step of FP8 is 0.09 or more: up to an `alpha` of 10,000 it
    is the neighbour that float64 finds but within a fifth of a half step of a tie, and for the 65 of a tensor between
    0.9 and 1.2 within 0.2 % of it. What is left is off by less than 2^-16 of itself, and the largest magnitude stays
    as it is, as do magnitudes that are all equal. What is no number makes all numbers NaN, but in float64 a NaN only
    itself.
    """
    return restored(stored(x)).to(x.dtype)


def stored(x: Tensor) -> Stored:
    """The first half of `truncate`."""
    if x.dtype != torch.float64:
        return _stored_narrow(x.float())
    squeeze = Squeeze.of(x)
    return Stored(round_to(_BASE, squeeze.forth(x)), *squeeze)


def restored(kept: Stored) -> Tensor:
    """The second half, in the type of `y`."""
    if kept.y.dtype == torch.float64:
        return Squeeze(kept.alpha, kept.other).back(kept.y)
    y, alpha, largest = kept
    logs = y.abs().clamp_(min=_LEAST).mul_(2.0**-SQUEEZED_EXPONENT).log2_()
    part = logs.mul_(0.5).div_(alpha).exp2_()
    return part.mul(largest).mul_(part).mul_(y.sign()).copysign_(y)


def _stored_narrow(x: Tensor) -> Stored:
    """In float32, with logarithms of parts of the largest magnitude, as fine as those parts.

    Roots, as they span half the octaves: the quotient of the least and the largest float32 is no float32.
    """
    if not x.numel():
        return Stored(x, x.new_ones(()), x.new_ones(()))
    sign, largest = x.sign(), x.abs().amax()
    largest = torch.where(largest == 0, 1.0, largest)
    found = sign.abs()
    whole = x.abs().add_((1 - found).mul_(largest))  # 0 becomes the largest: its root and logarithm would be slow
    logs = whole.sqrt_().div_(largest.sqrt()).log2_().mul_(2)
    octaves = -logs.sum(dtype=torch.float64) / found.sum(dtype=torch.float64).clamp_min(1)
    alpha = _exponent(octaves).float()
    squeezed = logs.mul_(alpha).exp2_().mul_(2.0**SQUEEZED_EXPONENT).mul_(sign).copysign_(x)
    return Stored(round_to(_BASE, squeezed), alpha, largest)


def _exponent(octaves: Tensor) -> Tensor:
    """`alpha` for a maximum that many octaves above the mean."""
    equal = octaves <= _EQUAL
    return torch.where(equal, 1.0, SQUEEZED_EXPONENT / torch.where(equal, 1.0, octaves))


def _powers(x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Numbers whose binary logarithm is changed; signs stay, and so does 0."""
    magnitude = torch.where(x == 0, 1.0, x.abs())
    return torch.where(x == 0, x, x.sign() * torch.exp2(change(magnitude.log2())))
