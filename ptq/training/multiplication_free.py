"""MF-BPROP: the products of the backward pass without a multiplier, on codes (LUQ, arXiv:2112.10769).

An integer of 4 bits has no exponent and a power of two no significand, so that their product has the significand of the
one and the sum of the exponents of both. It is a float with 4 bits of exponent and 2 of mantissa, `FP7`, and exact:

    sign       the two signs, xor
    int4       m = 1.f 2^k,  k = 0 to 3,  f one of 0, 1/4, 1/2, 3/4
    [1,3,0]    2^(e - 1) for the code e, 0 for the code 0
    product    1.f 2^(k + e - 1), whose exponent field is k + e

The paper has the idea; the fields and the bias are worked out here. It is a reference to check a circuit or a kernel
against: the products of the layers are plain ones of floats, and give the same.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import torch
from torch import Tensor

from ptq import formats
from ptq.formats import MOST_KEPT, Format
from ptq.formats.minifloat import FloatFormat

FP7: Final = FloatFormat.of("fp7_e4m2", 4, 2, bias=1)
"""[1,4,2] without special patterns. With this bias exponent fields add up; the largest that occurs is 11 of 15."""

_NIBBLE: Final = 15
_HALF: Final = 8
"""The sign bit of a nibble, and the magnitude of the integer that has no other bit."""


def multiply(integers: Tensor, powers: Tensor, fmt: str = "luq_fp4") -> Tensor:
    """Codes of `FP7` for those of int4 and of powers of two, int32, in the shape that the two broadcast to.

    The integers are -8 to 7, or the nibbles of their two's complement, 0 to 15. The powers are codes of `luq_fp4` or
    `luq_fp4_paper`, which has one bit more. It takes shifts, sums, bit operations and comparisons only; a product that
    is 0 has no sign.
    """
    nibble = integers.to(torch.int32) & _NIBBLE
    negative = nibble >> 3
    magnitude = (nibble ^ -negative) + negative & _NIBBLE  # what is negative is inverted and counted one up
    exponent = (magnitude >= 2).int() + (magnitude >= 4).int() + (magnitude >= _HALF).int()
    fraction = (magnitude << 3 - exponent) >> 1 & 3  # normalised, 1.ff0

    code = powers.to(torch.int32)
    sign_place = formats.get(fmt).bits - 1
    field = code & (1 << sign_place) - 1
    sign = negative ^ code >> sign_place
    product = sign << 6 | exponent + field << 2 | fraction
    return torch.where((magnitude == 0) | (field == 0), 0, product)


def matmul(integers: Tensor, powers: Tensor, fmt: str = "luq_fp4") -> Tensor:
    """`(rows, inner)` times `(inner, columns)`: products by `multiply`, sums in float32, exact up to 2^24."""
    total = torch.zeros(len(integers), powers.shape[1], device=integers.device)
    for column, row in zip(integers.unbind(1), powers.unbind(0), strict=True):
        total += decode(FP7, multiply(column[:, None], row, fmt))
    return total


def decode(fmt: Format, codes: Tensor) -> Tensor:
    """The numbers of a format that codes of any shape stand for, in float32; one pattern of two's complement a code."""
    return _decoder(fmt).to(codes.device)[codes.long() & (1 << fmt.bits) - 1]


@lru_cache(MOST_KEPT)
def _decoder(fmt: Format) -> Tensor:
    """By code; NaN where the format has no number."""
    table = torch.full((1 << fmt.bits,), torch.nan)
    table[torch.tensor(fmt.codes) & (1 << fmt.bits) - 1] = torch.tensor(fmt.values)
    return table
