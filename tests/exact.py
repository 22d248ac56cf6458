"""Rounding to the nearest by its definition, in exact arithmetic: slow, and nothing in common with ptq's."""

from __future__ import annotations

import bisect
import itertools
import math
from fractions import Fraction
from functools import cache

from ptq.formats import Format


@cache
def _halfway(fmt: Format) -> tuple[Fraction, ...]:
    """What lies in the middle between a number and the next."""
    exact = [Fraction(value) for value in fmt.values]
    return tuple((low + high) / 2 for low, high in itertools.pairwise(exact))


def nearest(fmt: Format, x: float, *, away: bool = False) -> float:
    """The nearest number, of two that are equally near the one with the even code, or that farther from zero.

    NaN stays, and a zero has the sign of `x` where the format has a negative one.
    """
    if math.isnan(x):
        return x
    last = len(fmt.values) - 1
    place = min(bisect.bisect_left(fmt.values, x), last)
    if place > 0 and x < fmt.values[place]:
        middle, exact = _halfway(fmt)[place - 1], Fraction(x)
        up = (middle > 0 if away else fmt.codes[place] % 2 == 0) if exact == middle else exact > middle
        place = place if up else place - 1
    best = fmt.values[place]
    return math.copysign(best, x) if best == 0 and fmt.has_negative_zero else best
