"""Formats that are a list of numbers."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from ptq.errors import OptionError
from ptq.formats import Format


@dataclass(frozen=True)
class CodebookFormat(Format):
    """The numbers themselves, ascending; a code is a place in the list."""

    book: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check the list.

        Raises:
            OptionError: it is not ascending, or too long for the bits.

        """
        if not all(low < high for low, high in itertools.pairwise(self.book)):
            raise OptionError(f"the numbers of the format {self.name} are not ascending; sort them, each once")
        most = 2**self.bits
        if not 2 <= len(self.book) <= most:
            raise OptionError(
                f"the format {self.name} has {len(self.book)} numbers, {self.bits} bits hold 2 to {most}; "
                f"change one of the two"
            )

    @property
    def values(self) -> tuple[float, ...]:
        """The list."""
        return self.book

    @cached_property
    def codes(self) -> tuple[int, ...]:
        """Places in the list."""
        return tuple(range(len(self.book)))


@dataclass(frozen=True)
class PartFormat(Format):
    """The numbers of a format up to a limit, what a search keeps to that must not use the others."""

    whole: Format
    limit: float

    @classmethod
    def of(cls, whole: Format, limit: float) -> PartFormat:
        """Those from `-limit` to `limit`."""
        return cls(f"{whole.name} up to {limit:g}", whole.bits, whole, limit)

    @cached_property
    def _kept(self) -> tuple[tuple[float, int], ...]:
        pairs = zip(self.whole.values, self.whole.codes, strict=True)
        return tuple((value, code) for value, code in pairs if abs(value) <= self.limit)

    @cached_property
    def values(self) -> tuple[float, ...]:
        """The numbers that are left."""
        return tuple(value for value, _ in self._kept)

    @cached_property
    def codes(self) -> tuple[int, ...]:
        """Their codes."""
        return tuple(code for _, code in self._kept)

    @property
    def has_negative_zero(self) -> bool:
        """As in the whole format."""
        return self.whole.has_negative_zero


_NF4: Final = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
"""Quantiles of the normal distribution between -1 and 1 (QLoRA, arXiv:2305.14314, appendix E)."""

_STEPS: Final = tuple(
    CodebookFormat(f"steps{2**bits}", bits, tuple(float(step) for step in range(1, 2**bits + 1)))
    for bits in (1, 2, 3, 4)
)
"""How many steps of the finest group of a row those of another are: scales of groups for integer kernels."""

FORMATS: Final = (CodebookFormat("nf4", 4, _NF4), *_STEPS)
