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
        equal = most - mean <= _EQUAL
        alpha = torch.where(equal, 1.0, SQUEEZED_EXPONENT / torch.where(equal, 1.0, most - mean))
        return cls(alpha, torch.where(equal, -most, -alpha * mean))

    def forth(self, x: Tensor) -> Tensor:
        """`Y` in float64."""
        return _powers(x.double(), lambda logs: self.alpha * logs + self.beta)

    def back(self, y: Tensor) -> Tensor:
        """`X` of `Y`, in float64."""
        return _powers(y.double(), lambda logs: (logs - self.beta) / self.alpha)


def squeezed(x: Tensor) -> tuple[Squeeze, Tensor]:
    """What S2FP8 stores of a tensor: its statistics, and `Y` rounded to fp8_e5m2, in float64."""
    squeeze = Squeeze.of(x)
    return squeeze, round_to(_BASE, squeeze.forth(x))


def truncate(x: Tensor) -> Tensor:
    """What is left of a tensor that is stored in S2FP8, in its own type (equation 5)."""
    squeeze, y = squeezed(x)
    return squeeze.back(y).to(x.dtype)


def _powers(x: Tensor, change: Callable[[Tensor], Tensor]) -> Tensor:
    """Numbers whose binary logarithm is changed; signs stay, and so does 0."""
    magnitude = torch.where(x == 0, 1.0, x.abs())
    return torch.where(x == 0, x, x.sign() * torch.exp2(change(magnitude.log2())))
