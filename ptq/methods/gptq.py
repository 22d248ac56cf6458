"""GPTQ (arXiv:2210.17323): every column takes up what rounding the ones before it did to the output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ptq.method import OneTerm


@dataclass(frozen=True)
class Gptq(OneTerm):
    """Columns go from the most to the least powerful input, scales of groups are fixed before ("static groups")."""

    ROUNDING: ClassVar[str] = "hessian"


METHOD = Gptq
