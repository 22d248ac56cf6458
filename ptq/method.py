"""What a method of `ptq.methods` is, and what it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self

from torch import Tensor

from ptq import registry
from ptq.errors import OptionError
from ptq.formats import most_steps
from ptq.ladder import Ladder
from ptq.scheme import Scheme
from ptq.solve import ROUNDINGS, Curvature, Refine, one_term


@dataclass(frozen=True)
class Request:
    """What a recipe asks a method for: the scheme, whether there is data, and the options that the method reads."""

    scheme: Scheme
    has_data: bool = False
    portable: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)


class Method(Protocol):
    """A frozen dataclass; `OPTIONS` are the options of a recipe that it reads."""

    OPTIONS: ClassVar[frozenset[str]]

    @classmethod
    def of(cls, request: Request) -> Method:
        """The method for a request.

        Raises:
            OptionError: it does not do what is asked, and why.

        """

    @property
    def needs(self) -> frozenset[str]:
        """Statistics of its inputs that a weight comes with where there is data: the second "moment", or the "mean"."""

    @property
    def scheme(self) -> Scheme:
        """How weights are stored; of several terms, the first."""

    @property
    def choices(self) -> tuple[Scheme, ...]:
        """How a layer, or a row, with one term may be stored where a budget decides, the narrowest first."""

    @property
    def integral(self) -> bool:
        """Whether the terms of a row come to one scale times integers, as far as the scheme has such numbers."""

    def ladder(
        self, weight: Tensor, curvature: Curvature, *, points: int | None = None, least_scale: Tensor | None = None
    ) -> Ladder:
        """Quantize a weight `(groups, rows, in)` to every size it can have, or to those of up to `points` terms.

        `least_scale (out,)` bounds the scales of the rows from below, where the arithmetic downstream needs it.
        """


def rounding_of(request: Request, with_data: str = "hessian") -> str:
    """The rounding that a request names, or else `with_data` where there is data, and to nearest where there is none.

    Raises:
        OptionError: there is none of that name, or it needs data that is not there.

    """
    name: str = request.options.get("rounding") or (with_data if request.has_data else "nearest")
    if registry.get("--rounding", name, ROUNDINGS).needs and not request.has_data:
        raise OptionError(f"--rounding {name} needs calibration data; give --data")
    return name


def check_singly(said: str, rounding: str, scheme: Scheme) -> None:
    """Refuse vectors where a rounding, by name, goes by single numbers; `said` is what a user chose it by.

    Raises:
        OptionError: that is so.

    """
    if scheme.format.span > 1 and ROUNDINGS[rounding].singly:
        takes = ", ".join(name for name, each in ROUNDINGS.items() if not each.singly)
        raise OptionError(
            f"{said} rounds single numbers, and {scheme.format.name} has {scheme.format.span} in a code; "
            f"use --method rtn, gptq or multipoint, which round by {takes}"
        )


@dataclass(frozen=True)
class OneTerm:
    """What methods have in common that give a weight one term, of any scheme; `ROUNDING` names how they round."""

    OPTIONS: ClassVar[frozenset[str]] = frozenset()
    ROUNDING: ClassVar[str]
    REFINE: ClassVar[Refine | None] = None
    """What makes better scales and zero points of those of least squared error."""

    scheme: Scheme
    portable: bool = False

    @classmethod
    def of(cls, request: Request) -> Self:
        """Any scheme.

        Raises:
            OptionError: the rounding needs data that is not there, or goes by single numbers where those of the
                format come in vectors.

        """
        name = cls.__name__.lower()
        if ROUNDINGS[cls.ROUNDING].needs and not request.has_data:
            raise OptionError(f"--method {name} needs calibration data; give --data, or use --method rtn")
        check_singly(f"--method {name}", cls.ROUNDING, request.scheme)
        return cls(request.scheme, request.portable)

    @property
    def choices(self) -> tuple[Scheme, ...]:
        """There is one."""
        return (self.scheme,)

    @property
    def needs(self) -> frozenset[str]:
        """Those of the rounding."""
        return ROUNDINGS[self.ROUNDING].statistics

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
        most = most_steps(portable=self.portable)
        rounding = ROUNDINGS[self.ROUNDING]
        refine = type(self).REFINE
        return one_term(weight, self.scheme, curvature, rounding, most=most, least_scale=least_scale, refine=refine)
