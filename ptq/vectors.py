"""Formats whose codes stand for several numbers along a row at once: vector quantization.

Numbers that are chosen together lie where vectors of weights do, not on all crossings of a grid, and tile space with
rounder cells. In layers of EfficientNet-Lite0 pairs have 1.0 to 1.3 dB less output error than single numbers of as many
bits, `lloyd4` or `lloyd3`. The books are made by `docs/vectors.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.resources import files
from types import MappingProxyType
from typing import Final

from ptq.errors import OptionError
from ptq.formats import Format


@dataclass(frozen=True)
class VectorFormat(Format):
    """The vectors themselves, ascending; a code is a place in the list. `bits` are those of one number."""

    book: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        """Check the list.

        Raises:
            OptionError: it is not ascending, or not as long as the bits say.

        """
        most = 1 << self.bits * self.span
        if len(set(self.book)) != most or list(self.book) != sorted(self.book):
            raise OptionError(f"the format {self.name} needs {most} vectors in ascending order, each once; sort them")

    @property
    def span(self) -> int:
        """How many numbers a vector has."""
        return len(self.book[0])

    @cached_property
    def values(self) -> tuple[float, ...]:
        """The numbers that are part of any vector."""
        return tuple(sorted({float(number) for vector in self.book for number in vector}))

    @cached_property
    def codes(self) -> tuple[int, ...]:
        """Places of the vectors."""
        return tuple(range(len(self.book)))


def _read(bits: int, span: int) -> VectorFormat:
    """A format whose book is a file of this package: bytes of int8 by vector."""
    name = f"lloyd{bits}x{span}"
    numbers = memoryview((files("ptq") / "books" / f"{name}.int8").read_bytes()).cast("b").tolist()
    return VectorFormat(name, bits, tuple(zip(*(iter(numbers),) * span, strict=True)))


VECTORS: Final[Mapping[str, VectorFormat]] = MappingProxyType(
    {fmt.name: fmt for fmt in (_read(2, 4), _read(3, 2), _read(4, 2), _read(5, 2))}
)
"""Every format of vectors by name."""
