"""GPTQ (arXiv:2210.17323): every column takes up what rounding the ones before it did to the output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Self

from ptq.errors import OptionError
from ptq.method import OneTerm, Request


@dataclass(frozen=True)
class Gptq(OneTerm):
    """Columns go from the most to the least powerful input, scales of groups are fixed before ("static groups")."""

    FEEDBACK: ClassVar[bool] = True

    @classmethod
    def of(cls, request: Request) -> Self:
        """Any scheme.

        Raises:
            OptionError: there is no data.

        """
        if not request.has_data:
            raise OptionError("--method gptq needs calibration data; give --data, or use --method rtn")
        return super().of(request)

    @property
    def needs(self) -> frozenset[str]:
        """The second moment of the inputs."""
        return frozenset({"moment"})


METHOD = Gptq
