"""Stochastic rounding to consecutive integers in a few passes: the integer formats of gradients.

`ptq.rounding.stochastic` looks numbers up in the table of a format, in float64. On integers one formula does:

    q = sign(x) (low + floor(|x| - low + u)),   low = floor(|x|)

`floor(|x| + u)` is shorter and wrong: float32 has no room for 23 bits of `u` beside an integer, so that a number near
127 would be off by up to 2^-18 in its chance. The difference is exact, and from 1 on a multiple of 2^-23.

It is odd: what is random is how far from 0 a number goes. For `x` it goes where `stochastic` goes for `|x|` with the
uniform number `1 - 2^-23 - u`, bit by bit, provided that `u` is a multiple of 2^-23 and that `x` is a float32 of 1 or
more in magnitude, or a multiple of 2^-23. Other numbers go up with a chance that is off by less than 2^-23.
"""

from __future__ import annotations

from torch import Tensor

from ptq.formats import Format


def stochastic_integers(fmt: Format, x: Tensor, uniform: Tensor) -> Tensor:
    """Numbers of a format that is an integer grid, for float32 or float64 of any shape; `uniform` is of that shape.

    It saturates, NaN stays NaN, and a zero has no sign.
    """
    rounded = x.clamp(fmt.min, fmt.max).abs_()
    low = rounded.floor()
    return rounded.sub_(low).add_(uniform).floor_().add_(low).copysign_(x).add_(0.0)  # -0 + 0 is 0
