"""Rounding to the nearest by its definition, in exact arithmetic: slow, and nothing in common with ptq's."""

from __future__ import annotations

import bisect
import math
from fractions import Fraction
from functools import cache

from ptq.formats import Format


@cache
def _exact(fmt: Format) -> tuple[Fraction, ...]:
    return tuple(Fraction(value) for value in fmt.values)


def nearest(fmt: Format, x: float, *, away: bool = False) -> float:
    """The nearest number, of two that are equally near the one with the even code, or that farther from zero."""
    if math.isnan(x):
        return x
    if math.isinf(x):
        return fmt.max if x > 0 else fmt.min
    above = bisect.bisect_left(fmt.values, x)
    beside = [i for i in (above - 1, above) if 0 <= i < len(fmt.values)]
    numbers, exact = _exact(fmt), Fraction(x)

    def order(i: int) -> tuple[Fraction, Fraction | int]:
        return abs(numbers[i] - exact), -abs(numbers[i]) if away else fmt.codes[i] % 2

    best = fmt.values[min(beside, key=order)]
    return math.copysign(best, x) if best == 0 and fmt.has_negative_zero else best
