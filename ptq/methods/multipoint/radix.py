"""Multipoint with scales in an integer ratio: the sum of the points of a row is one small integer.

With digits in `-L..L` and the ratio `2L + 1`, `n` points are a balanced number of `n` digits: they reach every
integer up to `(ratio^n - 1) / 2`, and a row is one scale times integers that an int8 holds.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from ptq.errors import OptionError

INT8_CEILING = 127
PORTABLE_CEILING = 63
"""Largest weight whose products with uint8 inputs never saturate the paired int16 sums of CPUs without VNNI."""

_PORTABLE_RATIO = 8


@dataclass(frozen=True)
class Radix:
    """A number system: digits `-digit..digit`, each worth `ratio` times the next, sums up to `ceiling`."""

    digit: int
    ratio: int
    ceiling: int

    @classmethod
    def of(cls, digit: int, *, portable: bool = False) -> Radix:
        """The number system of a base format whose largest value is `digit`."""
        ceiling = PORTABLE_CEILING if portable else INT8_CEILING
        digit = min(digit, ceiling)
        balanced = 2 * digit + 1
        ratio = min(balanced, _PORTABLE_RATIO) if portable and balanced <= ceiling else balanced
        return cls(digit, ratio, ceiling)

    def limit(self, points: int) -> int:
        """The largest sum of so many points; the smallest is its negative."""
        return self.digit * sum(int(self.ratio**place) for place in range(points))

    @property
    def most_points(self) -> int:
        """How many points fit under the ceiling."""
        points = 1
        while self.limit(points + 1) <= self.ceiling:
            points += 1
        return points

    def digits(self, integers: Tensor, points: int) -> list[Tensor]:
        """Split integers into digits, the most significant first.

        Raises:
            OptionError: an integer is beyond the limit of so many points.

        """
        if integers.abs().max() > self.limit(points):
            largest = int(integers.abs().max())
            raise OptionError(f"{points} points reach {self.limit(points)}, got {largest}; add points")
        rest, planes = integers.clone(), []
        for place in reversed(range(points)):
            plane = (rest / self.ratio**place).round().clamp(-self.digit, self.digit)
            rest -= plane * self.ratio**place
            planes.append(plane)
        return planes
