"""Memory that is free, given back to the system."""

from __future__ import annotations

import ctypes
from functools import cache
from typing import Any


def trim() -> None:
    """Give back what the C library holds of freed memory, which it does not where something behind it is in use.

    Between the layers of a large model that adds up to several times what is ever in use at once. Libraries other than
    glibc have no such call, and nothing is done.
    """
    found = _malloc_trim()
    if found is not None:
        found(0)


@cache
def _malloc_trim() -> Any:
    try:
        return ctypes.CDLL(None).malloc_trim
    except (OSError, AttributeError, TypeError):
        return None
