"""Mixed precision: a layer has one format of whole numbers among several, and the budget says which."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from ptq import formats, registry, scheme
from ptq.errors import OptionError, suggest
from ptq.formats import most_steps
from ptq.ladder import Ladder
from ptq.method import Request, check_singly, rounding_of
from ptq.scheme import ROW, TENSOR, Scheme
from ptq.solve import ROUNDINGS, Curvature, one_term
from ptq.vectors import VECTORS

_INTEGERS: Final = scheme.alike(formats.get("int8"))
FORMATS: Final = tuple(fmt.name for fmt in _INTEGERS) + tuple(
    fmt.name for fmt in (*formats.FORMATS.values(), *VECTORS.values()) if isinstance(fmt, scheme.UNEVEN)
)
"""What a layer may have: whole numbers of int8 kernels."""

SENSITIVITY: Final = "sensitivity"
OMPQ: Final = "ompq"
WORTHS: Final = (SENSITIVITY, OMPQ)
"""What is spent where: what a layer does to the output, or how unlike those of other layers its output is."""


@dataclass(frozen=True)
class Mixed:
    """Formats that a layer may have, the narrowest first, and what bits are worth by which they are chosen."""

    OPTIONS: ClassVar[frozenset[str]] = frozenset({"bits", "among", "worth", "beta", "rounding", "max_latency"})

    scheme: Scheme
    choices: tuple[Scheme, ...]
    rounding: str
    portable: bool = False

    @classmethod
    def of(cls, request: Request) -> Mixed:
        """The method for a request.

        Raises:
            OptionError: a format has no whole numbers that int8 kernels take, the format of the request is not among
                them, or the rounding or the worth needs data that is not there.

        """
        said, options = request.scheme, request.options
        wanted = [name for each in options.get("among") or () for name in each.split(",")]
        for name in wanted:
            registry.get("--among", name, dict.fromkeys(FORMATS))
        choices = tuple(_choices(request, wanted) if wanted else _fitting(request))
        if said not in choices:
            raise OptionError(
                f"--method mixed chooses among {', '.join(map(Scheme.describe, choices))}, and --weights "
                f"{said.describe()} is none of them; name it in --among, or give another"
            )
        rounding = rounding_of(request)
        for choice in choices:
            check_singly(f"--rounding {rounding}", rounding, choice)
        worth = options.get("worth") or SENSITIVITY
        if worth not in WORTHS:
            raise OptionError(f"unknown --worth {worth!r}; {suggest(worth, WORTHS)}")
        if worth == OMPQ and not request.has_data:
            raise OptionError(f"--worth {OMPQ} needs calibration data; give --data, or --worth {SENSITIVITY}")
        beta = options.get("beta")
        if beta is not None and not 0 <= beta < math.inf:
            raise OptionError(f"--beta {beta:g} is no finite number from 0 up; give for example 1")
        if worth != OMPQ and beta is not None:
            raise OptionError(f"--worth {worth} has no --beta, {OMPQ} has; leave it out")
        latency = options.get("max_latency")
        if latency is not None and not (0 < latency < math.inf and request.has_data):
            wrong = (
                "is no part of FP32's time; give for example 0.5"
                if request.has_data
                else "needs data to run; give --data"
            )
            raise OptionError(f"--max-latency {latency:g} {wrong}")
        return cls(said, choices, rounding, request.portable)

    @property
    def needs(self) -> frozenset[str]:
        """Those of the rounding."""
        return ROUNDINGS[self.rounding].statistics

    @property
    def integral(self) -> bool:
        """There is one term."""
        return True

    def ladder(
        self,
        weight: Tensor,
        curvature: Curvature,
        *,
        points: int | None = None,
        least_scale: Tensor | None = None,
    ) -> Ladder:
        """Quantize a weight `(groups, rows, in)` to every format, or with `points` to that of `scheme`.

        All rows have the same.
        """
        choices = self.choices if points is None else (self.scheme,)
        most = most_steps(portable=self.portable)
        made = [
            one_term(weight, choice, curvature, ROUNDINGS[self.rounding], most=most, least_scale=least_scale)
            for choice in choices
        ]
        rungs = tuple(rung for ladder in made for rung in ladder.rungs)
        return Ladder(
            rungs,
            torch.cat([ladder.error for ladder in made]),
            made[0].power,
            whole=True,
            base=choices.index(self.scheme),
        )


def _choices(request: Request, names: Iterable[str]) -> Iterator[Scheme]:
    """The formats of these names, the narrowest first, with the groups that the request has.

    Raises:
        OptionError: the groups of one do not fit int8 kernels, or its vectors are longer than those of the request.

    """
    said = request.scheme
    shared = str(said.group) if said.group else TENSOR if said.per_tensor else ROW
    found = [scheme.parse(name, shared, integer=said.fits_int8, portable=request.portable) for name in sorted({*names})]
    for each in sorted(found, key=lambda one: one.format.bits):
        if each.format.span > said.format.span:
            raise OptionError(
                f"--among {each.format.name} has more numbers in a code than --weights {said.format.name}, by which "
                f"columns are put together; give it to --weights"
            )
        yield each


def _fitting(request: Request) -> Iterator[Scheme]:
    """The formats like that of the request whose groups fit, and the integers that are wider than all of them."""
    base = request.scheme.format
    like = scheme.alike(base) if isinstance(base, scheme.UNEVEN) else _INTEGERS
    for fmt in (*like, *(each for each in _INTEGERS if each.bits > like[-1].bits)):
        try:
            yield from _choices(request, [fmt.name])
        except OptionError:
            continue


METHOD = Mixed
