"""Number formats: a format is its table of values, and everything else about it follows from that.

A family of formats is a module of this package with a tuple `FORMATS`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from ptq import registry
from ptq.errors import OptionError

INT8_MAX: Final = 127
MOST_KEPT: Final = 128
"""Of so many formats is kept what follows from them: all that have a name, and few of those made for one tensor."""

PORTABLE_MAX: Final = 63
"""Largest int8 weight whose products with uint8 inputs never saturate the paired int16 sums of CPUs without VNNI."""


def most_steps(*, portable: bool) -> int:
    """The largest weight that int8 kernels compute with, or those of every CPU exactly."""
    return PORTABLE_MAX if portable else INT8_MAX


@dataclass(frozen=True)
class Format:
    """A set of numbers that `bits` bits hold."""

    name: str
    bits: int

    @property
    def values(self) -> tuple[float, ...]:
        """The numbers, ascending."""
        raise NotImplementedError

    @property
    def codes(self) -> tuple[int, ...]:
        """What is stored for each of `values`; a tie rounds to the neighbour with the even code."""
        raise NotImplementedError

    @property
    def span(self) -> int:
        """How many numbers along a row have a code in common."""
        return 1

    def row_bits(self, columns: int) -> int:
        """What a row of so many numbers takes, with what its last code has to spare."""
        return -(-columns // self.span) * self.span * self.bits

    @property
    def onnx(self) -> str | None:
        """The name of ONNX's TensorProto type with these codes; None when it has none."""
        return None

    @property
    def least_opset(self) -> int | None:
        """The first opset in which that type can be cast and dequantized."""
        return None

    @property
    def own(self) -> bool:
        """Whether it is made for one tensor, so that others have other tables of this name."""
        return False

    @property
    def has_negative_zero(self) -> bool:
        """Whether there is a negative zero besides, as in most floats; the table has one zero in any case."""
        return False

    @property
    def step(self) -> float:
        """The largest number that all others are multiples of."""
        ratios = [value.as_integer_ratio() for value in self.values if value]
        over = math.lcm(*(below for _, below in ratios))
        return math.gcd(*(above * (over // below) for above, below in ratios)) / over

    @property
    def reach(self) -> float:
        """How many steps the number farthest from 0 is away from it."""
        return max(-self.min, self.max) / self.step

    @property
    def fits_int8(self) -> bool:
        """Whether its numbers are small multiples of one step, so that integer kernels compute with them exactly."""
        return self.reach <= INT8_MAX

    @property
    def max(self) -> float:
        """The largest number."""
        return self.values[-1]

    @property
    def min(self) -> float:
        """The smallest number."""
        return self.values[0]


FAMILIES: Final[Mapping[str, tuple[Format, ...]]] = MappingProxyType(
    {name: module.FORMATS for name, module in registry.Modules(__name__).items()}
)
"""The formats of every family, by its name."""


def _by_name(families: Mapping[str, tuple[Format, ...]]) -> dict[str, Format]:
    found: dict[str, Format] = {}
    for family, members in families.items():
        for fmt in members:
            if fmt.name in found:
                raise OptionError(f"ptq/formats/{family} has a format {fmt.name}, which there is already; rename it")
            found[fmt.name] = fmt
    return found


FORMATS: Final[Mapping[str, Format]] = MappingProxyType(_by_name(FAMILIES))
"""Every format by name."""


def get(name: str) -> Format:
    """The format of that name.

    Raises:
        OptionError: there is none.

    """
    return registry.get("format", name, FORMATS)
