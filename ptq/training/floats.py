"""Rounding to the nearest small float in a few passes over float32, with the format in tensors.

`ptq.rounding.nearest` has a table for a format that is known beforehand. Where the numbers of a tensor choose the
format, as in `ptq.training.lognormal`, looking at the choice would wait for them; a formula needs no look:

    q = round(x / step) step,   step = 2^(floor(log2 |x|) - mantissa), and that of the least exponent below it

It is bit by bit what the table gives: ties go to the even significand, which has the even code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ptq.formats.minifloat import FloatFormat
from ptq.training.powers import EXPONENT


class Fields(NamedTuple):
    """What of a small float the formula needs; each with a place for every format, or of one of them."""

    top: Tensor
    """The largest number."""
    least: Tensor
    """The smallest that is normal."""
    part: Tensor
    """The last place of a significand, 2^-mantissa."""

    @classmethod
    def of(cls, members: Sequence[FloatFormat], device: torch.device) -> Fields:
        """Of signed formats without special patterns and with whole biases."""
        parts = [2.0**-fmt.mantissa for fmt in members]
        subnormal = [min(value for value in fmt.values if value > 0) for fmt in members]
        least = [small / part for small, part in zip(subnormal, parts, strict=True)]
        tops = [fmt.max for fmt in members]
        return cls(*(torch.tensor(numbers, device=device) for numbers in (tops, least, parts)))

    def chosen(self, index: Tensor) -> Fields:
        """Those at one place, which stays on the device."""
        return Fields(*(numbers.take(index) for numbers in self))


def nearest_floats(fields: Fields, x: Tensor) -> Tensor:
    """Numbers of the format for float32 of any shape; it saturates, NaN stays NaN, and a zero has the sign of `x`."""
    inside = x.clamp(-fields.top, fields.top)
    low = inside.view(torch.int32).bitwise_and(EXPONENT).view(torch.float32)
    step = low.clamp_(min=fields.least).mul_(fields.part)
    return inside.div_(step).round_().mul_(step)
