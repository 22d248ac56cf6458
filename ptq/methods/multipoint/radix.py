"""Multipoint with scales in integer ratios: the sum of the points of a row is one small integer.

With digits in `-L..L` after it, a point is worth `2L + 1` of their steps, so that points are the digits of a balanced
number: they reach every integer up to a limit, and a row is one scale times integers that an int8 holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ptq.errors import OptionError
from ptq.formats import INT8_MAX, PORTABLE_MAX
from ptq.formats.integer import Integers

_PORTABLE_RATIO = 8


@dataclass(frozen=True)
class Radix:
    """A number system: place `k` has digits `-digits[k]..digits[k]` worth `worths[k]`, the coarsest place first."""

    digits: tuple[int, ...]
    worths: tuple[int, ...]

    @classmethod
    def of(cls, digits: Sequence[int], *, portable: bool = False) -> Radix:
        """The number system with these largest digits."""
        ceiling = PORTABLE_MAX if portable else INT8_MAX
        most = _PORTABLE_RATIO if portable else INT8_MAX
        capped = [min(digit, ceiling) for digit in digits]
        worths = [1]
        for digit in reversed(capped[1:]):
            worths.insert(0, worths[0] * min(2 * digit + 1, most))
        return cls(tuple(capped), tuple(worths))

    @property
    def limit(self) -> int:
        """The largest sum; the smallest is its negative."""
        return sum(digit * worth for digit, worth in zip(self.digits, self.worths, strict=True))

    @property
    def grid(self) -> Integers:
        """Every sum."""
        return Integers.up_to(self.limit)

    def fits(self, *, portable: bool) -> bool:
        """Whether int8 kernels compute with every sum."""
        return self.limit <= (PORTABLE_MAX if portable else INT8_MAX)

    def split(self, integers: Tensor) -> list[Tensor]:
        """The digits of integers, the coarsest first.

        Raises:
            OptionError: an integer is beyond the limit.

        """
        largest = int(integers.abs().max())
        if largest > self.limit:
            raise OptionError(f"{len(self.digits)} points reach {self.limit}, got {largest}; add points")
        rest, planes = integers.clone(), []
        for digit, worth in zip(self.digits, self.worths, strict=True):
            plane = (rest / worth).round().clamp(-digit, digit)
            rest -= plane * worth
            planes.append(plane)
        return planes
