"""What quantizes embedding tables: their rows are read one by one, so that no input weighs their columns."""

from __future__ import annotations

from typing import Final

from ptq import scheme
from ptq.errors import OptionError
from ptq.method import Method
from ptq.methods.rtn import Rtn

TABLES: Final = "rtn"
"""The method as it is called."""

_FEW_BITS = _BYTE = 8
_GROUP = "32"


def rounded(weights: str, group: str | None = None) -> Method:
    """Rounding to a format, in groups where that has few bits and no other groups.

    Raises:
        OptionError: it is no format, has groups of its own, or codes of vectors that a byte does not hold.

    """
    plain = scheme.parse(weights, group)
    code = plain.format.bits * plain.format.span
    if plain.format.span > 1 and code > _BYTE:
        raise OptionError(
            f"codes of {weights} take {code} bits, and those of embedding tables bytes; give narrower ones"
        )
    few = plain.bits < _FEW_BITS and group is None and plain.group is None
    return Rtn(scheme.parse(weights, _GROUP) if few else plain)
