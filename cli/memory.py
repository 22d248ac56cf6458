"""Whether an error is that memory ran out, which libraries say each in their own way."""

from __future__ import annotations

import errno
import re
from typing import Final

from ptq.errors import PtqError

_SAID: Final = re.compile(
    r"(can't|cannot|failed to) allocate|bad_alloc|alloc failed|can't start new thread", re.IGNORECASE
)


def ran_out(error: BaseException | None) -> bool:
    """Whether memory ran out, or that is what an error of ours was made from."""
    while isinstance(error, PtqError):
        error = error.__cause__
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM  # of a mapping, or of a process that is to be started
    return isinstance(error, MemoryError) or (isinstance(error, Exception) and _SAID.search(str(error)) is not None)
