"""GPFQ (arXiv:2010.15979): every column takes back as much as it can of what the ones before it left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ptq.method import OneTerm


@dataclass(frozen=True)
class Gpfq(OneTerm):
    """Columns go from the most to the least powerful input; scales are those of least output error."""

    ROUNDING: ClassVar[str] = "gpfq"


METHOD = Gpfq
