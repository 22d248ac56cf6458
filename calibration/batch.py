"""Some samples of data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


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
