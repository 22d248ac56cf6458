"""GPTQ (arXiv:2210.17323): every column takes up what rounding the ones before it did to the output."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ptq.errors import OptionError
from ptq.formats import INT8_MAX, PORTABLE_MAX
from ptq.ladder import Ladder
from ptq.method import Request
from ptq.scheme import Scheme
from ptq.solve import Curvature, one_term


@dataclass(frozen=True)
class Gptq:
    """Columns go from the most to the least powerful input, scales of groups are fixed before ("static groups")."""

    OPTIONS: ClassVar[frozenset[str]] = frozenset()

    scheme: Scheme
    portable: bool = False

    @classmethod
    def of(cls, request: Request) -> Gptq:
        """Any scheme.

        Raises:
            OptionError: there is no data.

        """
        if not request.has_data:
            raise OptionError("--method gptq needs calibration data; give --data, or use --method rtn")
        return cls(request.scheme, request.portable)

    @property
    def needs(self) -> frozenset[str]:
        """The second moment of the inputs."""
        return frozenset({"moment"})

    @property
    def integral(self) -> bool:
        """There is one term."""
        return True

    def ladder(
        self,
        weight: Tensor,
        curvature: Curvature,
        *,
        points: int | None = None,  # noqa: ARG002  (there is one)
        least_scale: Tensor | None = None,
    ) -> Ladder:
        """Quantize a weight `(groups, rows, in)`."""
        most = PORTABLE_MAX if self.portable else INT8_MAX
        return one_term(weight, self.scheme, curvature, feedback=True, most=most, least_scale=least_scale)


METHOD = Gptq
