"""Keep the talk of the exporters off the user's terminal."""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

_COLOR = re.compile(r"\x1b\[[0-9;]*m")
_LINE_CHARACTERS = 240


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back warnings and log records of all libraries; errors still raise."""
    previous = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)


def first_line(error: BaseException) -> str:
    """The type and first line of the error at the root of a chain, cut to a readable length."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = (line.strip() for line in _COLOR.sub("", str(error)).splitlines())
    text = " ".join(next((line for line in lines if line), "").split())
    return f"{type(error).__name__}: {text[:_LINE_CHARACTERS]}" if text else type(error).__name__
