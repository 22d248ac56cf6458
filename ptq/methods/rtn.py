"""Round to nearest, on the scales of least squared error."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from ptq.formats import INT8_MAX, PORTABLE_MAX
from ptq.ladder import Ladder
from ptq.method import Request
from ptq.scheme import Scheme
from ptq.solve import Curvature, one_term


@dataclass(frozen=True)
class Rtn:
    """It works without data; with data, what it does to the mean of an output goes into the bias."""

    OPTIONS: ClassVar[frozenset[str]] = frozenset()

    scheme: Scheme
    portable: bool = False

    @classmethod
    def of(cls, request: Request) -> Rtn:
        """Any scheme."""
        return cls(request.scheme, request.portable)

    @property
    def needs(self) -> frozenset[str]:
        """The mean input."""
        return frozenset({"mean"})

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
        return one_term(weight, self.scheme, curvature, feedback=False, most=most, least_scale=least_scale)


METHOD = Rtn
