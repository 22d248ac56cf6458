"""Logarithmic formats: numbers about one ratio apart, and sums of few powers of two, which need no multiplier."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from ptq.formats import Format


@dataclass(frozen=True)
class LogFormat(Format):
    """`least 2^(code / steps)`, unsigned and without 0, with significands rounded to `precision` bits.

    So rounded their products stay exact. `count` is how many of the codes are numbers; the others are none.
    """

    steps: int = 1
    precision: int = 1
    least: float = 1.0
    count: int | None = None

    @cached_property
    def codes(self) -> tuple[int, ...]:
        """From zero up."""
        return tuple(range(self.count or 2**self.bits))

    @cached_property
    def values(self) -> tuple[float, ...]:
        """From `least` up, `steps` in every octave."""
        ulp = 2.0 ** (1 - self.precision)
        octave = [round(2.0 ** (step / self.steps) / ulp) * ulp for step in range(self.steps)]
        return tuple(octave[code % self.steps] * 2.0 ** (code // self.steps) * self.least for code in self.codes)

    @property
    def onnx(self) -> str | None:
        """E8M0 is the one that ONNX knows."""
        return "FLOAT8E8M0" if self.name == "e8m0" else None

    @property
    def least_opset(self) -> int | None:
        """The first opset in which that type can be cast."""
        return 24 if self.name == "e8m0" else None


@dataclass(frozen=True)
class HotFormat(Format):
    """Sums and differences of up to `hot` distinct powers of two from 1 to `2^(places - 1)` (arXiv:2103.11704).

    The codes number the magnitudes, with a sign bit in front.
    """

    hot: int
    places: int

    @classmethod
    def of(cls, name: str, hot: int, places: int) -> HotFormat:
        """A format with as many bits as its numbers need."""
        count = 2 * len(_magnitudes(hot, places)) - 1
        return cls(name, (count - 1).bit_length(), hot, places)

    @cached_property
    def values(self) -> tuple[float, ...]:
        """Both signs of every magnitude."""
        magnitudes = _magnitudes(self.hot, self.places)
        return (*(-value for value in reversed(magnitudes[1:])), *magnitudes)

    @cached_property
    def codes(self) -> tuple[int, ...]:
        """The place of the magnitude, and the sign in the highest bit."""
        count = len(_magnitudes(self.hot, self.places))
        sign = 2 ** (self.bits - 1)
        return (*(sign + place for place in reversed(range(1, count))), *range(count))


def _magnitudes(hot: int, places: int) -> tuple[float, ...]:
    digits = itertools.product((-1, 0, 1), repeat=places)
    sums = {sum(d * 2**p for p, d in enumerate(row)) for row in digits if sum(map(abs, row)) <= hot}
    return tuple(float(value) for value in sorted(sums) if value >= 0)


FORMATS: Final = (
    LogFormat("ulog8", 8, steps=16, precision=8),
    LogFormat("e8m0", 8, least=2.0**-127, count=255),
    HotFormat.of("pot3", 1, 3),
    HotFormat.of("pot4", 1, 7),
    HotFormat.of("luq_fp4_paper", 1, 8),
    HotFormat.of("nhot2", 2, 7),
    HotFormat.of("nhot3", 3, 7),
)
"""`luq_fp4_paper` has the 8 magnitudes of LUQ's published code: with their signs and 0 one more than 4 bits hold."""
