"""What quantizes embedding tables: their rows are read one by one, so that no input weighs their columns."""

from __future__ import annotations

from typing import Final

from ptq import scheme
from ptq.method import Method
from ptq.methods.rtn import Rtn

TABLES: Final = "rtn"
"""The method as it is called."""

_FEW_BITS = 8
_GROUP = "32"


def rounded(weights: str, group: str | None = None) -> Method:
    """Rounding to a format, in groups where that has few bits and no other groups.

    Raises:
        OptionError: it is no format, or has groups of its own.

    """
    plain = scheme.parse(weights, group)
    few = plain.bits < _FEW_BITS and group is None and plain.group is None
    return Rtn(scheme.parse(weights, _GROUP) if few else plain)
