"""Some samples of data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np

Raw = Mapping[str, np.ndarray] | tuple[np.ndarray, ...]
"""A batch as it came: arrays by name, or in the order of the inputs."""


class Share(NamedTuple):
    """The batches of every `of`-th place, from `place` on."""

    place: int
    of: int


WHOLE: Final = Share(0, 1)
"""All batches."""


@dataclass(frozen=True, eq=False)
class Item:
    """A batch of a stream as it came, of `size` samples, which is read when it is wanted and before the next one is.

    `stamp` is there where its numbers take long to make: what they follow from, to the last bit.
    """

    size: int
    read: Callable[[], Raw]
    stamp: Callable[[], bytes] | None = None

    @classmethod
    def of(cls, raw: Raw) -> Item:
        """What is in memory."""
        arrays = tuple(raw.values()) if isinstance(raw, Mapping) else raw
        return cls(max((len(array) for array in arrays if array.ndim), default=1), lambda: raw)


@dataclass(frozen=True, eq=False)
class Batch:
    """Arrays by input name, samples first, and the classes of the samples `(samples,)` if known.

    `start` is how many samples came before, where that is counted.
    """

    feeds: Mapping[str, np.ndarray]
    labels: np.ndarray | None = None
    start: int = 0

    @property
    def size(self) -> int:
        """How many samples there are."""
        return max((len(array) for array in self.feeds.values() if array.ndim), default=1)
