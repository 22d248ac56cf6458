"""An interrupted run ends at once, whatever it is in the middle of."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

_PATIENCE: Final = 0.7
"""Seconds that a run has to end by itself: Python sees a signal only between two calls of a library."""

_ENDING: Final = frozenset({signal.SIGINT, signal.SIGTERM})


@contextmanager
def ends_soon(give_up: Callable[[], None]) -> Iterator[None]:
    """While this lasts, call `give_up` from another thread when a signal did not end the process in time."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    done = threading.Event()
    before = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    watcher = threading.Thread(target=_watch, args=(reader, done, give_up), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        signal.set_wakeup_fd(before)
        os.close(writer)
        watcher.join()
        os.close(reader)


def _watch(reader: int, done: threading.Event, give_up: Callable[[], None]) -> None:
    while signals := os.read(reader, 1):
        if signals[0] in _ENDING:
            if not done.wait(_PATIENCE):
                give_up()
            return
