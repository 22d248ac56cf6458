"""Posits: floats whose exponent grows at the mantissa's cost (Standard for Posit Arithmetic, 2022)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from ptq.formats import Format


@dataclass(frozen=True)
class PositFormat(Format):
    """Posits with `es` exponent bits; the pattern "not a real" is no number of the format.

    Rounding is to the nearest number, as for every format here. The posit standard rounds the pattern instead, which
    differs where the mantissa has run out, and never to 0.
    """

    es: int

    @cached_property
    def values(self) -> tuple[float, ...]:
        """Both signs of every magnitude, and 0."""
        magnitudes = [_decoded(code, self.bits, self.es) for code in range(1, 2 ** (self.bits - 1))]
        return (*(-value for value in reversed(magnitudes)), 0.0, *magnitudes)

    @cached_property
    def codes(self) -> tuple[int, ...]:
        """Two's complement patterns: negative numbers have the negated pattern."""
        most = 2 ** (self.bits - 1)
        return (*(2 * most - code for code in reversed(range(1, most))), *range(most))


def _decoded(code: int, bits: int, es: int) -> float:
    """The number of a positive pattern: a run of equal bits (the regime), `es` exponent bits, a fraction."""
    text = f"{code:0{bits - 1}b}"
    run = len(text) - len(text.lstrip(text[0]))
    regime = run - 1 if text[0] == "1" else -run
    rest = text[run + 1 :]
    exponent = int(rest[:es].ljust(es, "0") or "0", 2)
    fraction = rest[es:]
    return math.ldexp(1 + int(fraction or "0", 2) / 2 ** len(fraction), regime * (1 << es) + exponent)


FORMATS: Final = (
    PositFormat("posit8_0", 8, 0),
    PositFormat("posit8_1", 8, 1),
    PositFormat("posit8_2", 8, 2),
)
