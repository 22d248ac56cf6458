"""The stages of a run: how long each took, and a hook for progress bars."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[], None]


class Stages:
    """Times stages; a subclass may show them."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, total: int | None = None) -> Iterator[Advance]:
        """Time what happens inside; call what it yields once per step, of `total` if that is known."""
        start = time.perf_counter()
        try:
            with self.shown(name, total) as advance:
                yield advance
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start

    @contextmanager
    def shown(self, name: str, total: int | None) -> Iterator[Advance]:  # noqa: ARG002  (for those that show it)
        """Show a stage; here, nothing is shown."""
        yield lambda: None

    def say(self, line: str) -> None:
        """Say something to the user while it runs; here, nobody listens."""
