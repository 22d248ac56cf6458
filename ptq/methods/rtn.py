"""Round to nearest, on the scales of least squared error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ptq.method import OneTerm


@dataclass(frozen=True)
class Rtn(OneTerm):
    """It works without data; with data, what it does to the mean of an output goes into the bias."""

    ROUNDING: ClassVar[str] = "nearest"


METHOD = Rtn
