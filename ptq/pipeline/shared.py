"""What several runs on one model and its data have in common."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeVar

T = TypeVar("T")
Key = Callable[[], Hashable]
"""All that something follows from; found only where it is compared."""


class Alone:
    """One run, which shares nothing."""

    def get(self, kind: str, key: Key, make: Callable[[], T]) -> T:  # noqa: ARG002
        """What is wanted, made now."""
        return make()

    def under(self, origin: Key) -> Alone:  # noqa: ARG002
        """The same for what follows from `origin` too."""
        return self


class Shared(Alone):
    """Of each kind, the last that was made, and the key of all that it follows from: memory holds one at a time."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[Hashable, Any]] = {}

    def get(self, kind: str, key: Key, make: Callable[[], T]) -> T:
        """What was made for an equal key just before, else made now."""
        wanted = key()
        if kind not in self._kept or self._kept[kind][0] != wanted:
            self._kept.pop(kind, None)
            self._kept[kind] = (wanted, make())
        found: T = self._kept[kind][1]
        return found

    def under(self, origin: Key) -> Alone:
        """The same for what follows from `origin` too."""
        return _Under(self, origin)


class _Under(Alone):
    def __init__(self, shared: Alone, origin: Key) -> None:
        self._shared, self._origin = shared, origin

    def get(self, kind: str, key: Key, make: Callable[[], T]) -> T:
        return self._shared.get(kind, lambda: (self._origin(), key()), make)
