"""Arrays on disk that are needed for a while."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ptq.cache.place import writing


@dataclass(frozen=True)
class Scratch:
    """A folder of arrays by name and number, a file each; other processes may use the same."""

    folder: Path
    cache: Path
    """The folder of the cache that it is in."""

    def put(self, name: str, number: int, array: np.ndarray) -> None:
        """Keep an array.

        Raises:
            CacheError: there is no room for it.

        """
        with writing(self.cache):
            np.save(self._path(name, number), array, allow_pickle=False)

    def take(self, name: str, number: int) -> np.ndarray:
        """An array that is kept.

        Raises:
            CacheError: somebody removed it.

        """
        with writing(self.cache):
            found: np.ndarray = np.load(self._path(name, number), allow_pickle=False)
        return found

    def drop(self, name: str, number: int) -> None:
        """Keep an array no longer."""
        with writing(self.cache):
            self._path(name, number).unlink(missing_ok=True)

    def _path(self, name: str, number: int) -> Path:
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.{number}.npy"
