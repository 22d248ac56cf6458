"""Arrays on disk that are needed for a while."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ptq.errors import CacheError


@dataclass(frozen=True)
class Scratch:
    """A folder of arrays by name and number, a file each; other processes may use the same."""

    folder: Path
    refused: Callable[[OSError], CacheError]

    def put(self, name: str, number: int, array: np.ndarray) -> None:
        """Keep an array.

        Raises:
            CacheError: there is no room for it.

        """
        with self._told():
            np.save(self._path(name, number), array, allow_pickle=False)

    def take(self, name: str, number: int) -> np.ndarray:
        """An array that is kept.

        Raises:
            CacheError: somebody removed it.

        """
        with self._told():
            found: np.ndarray = np.load(self._path(name, number), allow_pickle=False)
        return found

    def drop(self, name: str, number: int) -> None:
        """Keep an array no longer."""
        with self._told():
            self._path(name, number).unlink(missing_ok=True)

    def _path(self, name: str, number: int) -> Path:
        return self.folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.{number}.npy"

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise self.refused(error) from error
