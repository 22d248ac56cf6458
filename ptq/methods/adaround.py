"""AdaRound (arXiv:2004.10568): which way each weight is rounded is learned, for all weights of a row together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ptq.method import OneTerm


@dataclass(frozen=True)
class Adaround(OneTerm):
    """Scales are those of gptq or rtn, whichever is better for the row; no row ends worse than by either."""

    ROUNDING: ClassVar[str] = "adaround"


METHOD = Adaround
