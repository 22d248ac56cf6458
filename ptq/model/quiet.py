"""Keep the talk of the exporters off the user's terminal."""

from __future__ import annotations

import logging
import re
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any, TextIO, cast

_COLOR = re.compile(r"\x1b\[[0-9;]*m")
_LINE_CHARACTERS = 240
_TORCHSCRIPT = "operation failed in the TorchScript interpreter."  # the reason stands at the end


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


def first_line(error: BaseException) -> str:
    """The type and first line of the error at the root of a chain, cut to a readable length."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in _COLOR.sub("", str(error)).splitlines() if line.strip()]
    told = -1 if lines and lines[0].endswith(_TORCHSCRIPT) else 0
    text = " ".join(lines[told].split()) if lines else ""
    return f"{type(error).__name__}: {text[:_LINE_CHARACTERS]}" if text else type(error).__name__
