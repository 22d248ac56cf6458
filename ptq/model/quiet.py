"""Keep the talk of the exporters off the user's terminal."""

from __future__ import annotations

import logging
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any, TextIO, cast


class _Muted:
    """A stream that drops what one thread writes and passes on the rest, such as that of a progress bar."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._thread = threading.get_ident()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        return len(text) if threading.get_ident() == self._thread else self._stream.write(text)


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back warnings, log records and what is printed to stderr; errors still raise."""
    previous = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(cast("TextIO", _Muted(sys.stderr))):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
