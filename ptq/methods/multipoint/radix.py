"""Multipoint with scales in integer ratios: the sum of the points of a row is one small integer.

With digits in `-L..L` after it, a point is worth `2L + 1` of their steps, so that points are the digits of a balanced
number: they reach every integer up to a limit, and a row is one scale times integers that an int8 holds. With digits
in `0..L` it is worth `L + 1`, and the zero point is such a number too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ptq.errors import OptionError
from ptq.formats import Format, most_steps
from ptq.formats.integer import Integers
from ptq.formats.lloyd import LloydFormat
from ptq.vectors import VectorFormat

_PORTABLE_RATIO = 8


@dataclass(frozen=True)
class Radix:
    """A number system: place `k` has digits up to `digits[k]` worth `worths[k]`, the coarsest place first.

    Digits are from `-digits[k]` where they are signed, else from 0. `limit` is the largest sum. With a `book` the only
    digits are its numbers, which need not be all up to the largest.
    """

    digits: tuple[int, ...]
    worths: tuple[int, ...]
    limit: int
    signed: bool = True
    book: LloydFormat | VectorFormat | None = None

    @classmethod
    def of(cls, formats: Sequence[Format], *, portable: bool = False) -> Radix:
        """The number system whose digits are the numbers of these formats.

        Of several unsigned digits, the sums end where integer kernels do, or there would be few such systems.
        """
        (first, *others) = formats
        if isinstance(first, (LloydFormat, VectorFormat)) and not others:
            return cls((int(first.reach),), (1,), int(first.reach), book=first)
        most = most_steps(portable=portable)
        signed = formats[0].min < 0
        digits = [int(min(fmt.max, most) if signed else fmt.max) for fmt in formats]
        worths = [1]
        for digit in reversed(digits[1:]):
            ratio = 2 * digit + 1 if signed else digit + 1
            worths.insert(0, worths[0] * min(ratio, _PORTABLE_RATIO if portable and signed else ratio))
        limit = sum(digit * worth for digit, worth in zip(digits, worths, strict=True))
        return cls(tuple(digits), tuple(worths), limit if signed or len(digits) == 1 else min(limit, most), signed)

    @property
    def cut(self) -> bool:
        """Whether sums end before the largest digits do."""
        return self.limit < sum(digit * worth for digit, worth in zip(self.digits, self.worths, strict=True))

    @property
    def grid(self) -> Format:
        """Every sum."""
        if self.book is not None:
            return self.book
        return Integers.up_to(self.limit) if self.signed else Integers.between(0, self.limit)

    def split(self, integers: Tensor) -> list[Tensor]:
        """The digits of integers, the coarsest first.

        Raises:
            OptionError: an integer is beyond the limit.

        """
        largest = int(integers.abs().max()) if integers.numel() else 0
        if largest > self.limit:
            raise OptionError(f"{len(self.digits)} points reach {self.limit}, got {largest}; add points")
        rest, planes = integers.clone(), []
        for digit, worth in zip(self.digits, self.worths, strict=True):
            plane = (rest / worth).round().clamp(-digit, digit) if self.signed else (rest / worth).floor()
            rest -= plane * worth
            planes.append(plane)
        return planes
