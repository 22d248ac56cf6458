"""Arrays by name whose samples are read in order, as few at a time and of as many as are wanted, anew at each walk."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

ONLY = ""
"""The key of an array without a name: it goes to the only input."""

Take = Callable[[int, int], np.ndarray]
"""From a sample on, so many samples of an array, or as many as there are; no call begins before the end of the last.
An array without samples, of rank 0, is the same at every call."""


@dataclass(frozen=True)
class Header:
    """What is known of an array without its numbers."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @classmethod
    def of(cls, array: np.ndarray) -> Header:
        """That of an array in memory."""
        return cls(array.dtype, array.shape)

    def __str__(self) -> str:
        """As messages show it."""
        return f"{self.dtype.name}[{','.join(map(str, self.shape))}]"

    @property
    def sample_bytes(self) -> int:
        """The size of one sample."""
        return self.dtype.itemsize * math.prod(self.shape[1:])


class Table(Protocol):
    """Arrays by name."""

    @property
    def headers(self) -> Mapping[str, Header]:
        """What there is."""

    def open(self) -> AbstractContextManager[Callable[[str], Take]]:
        """Begin a walk: what it gives makes, of a name, what takes the samples of that array from the first on."""


@dataclass(frozen=True, eq=False)
class Arrays:
    """Arrays in memory."""

    arrays: Mapping[str, np.ndarray]

    @property
    def headers(self) -> Mapping[str, Header]:
        """What there is."""
        return {name: Header.of(array) for name, array in self.arrays.items()}

    @contextmanager
    def open(self) -> Iterator[Callable[[str], Take]]:
        """Begin a walk."""
        yield lambda name: slices(self.arrays[name])


def slices(array: np.ndarray) -> Take:
    """What takes the samples of an array in memory."""
    return lambda start, count: np.asarray(array[start : start + count], order="C") if array.ndim else array
