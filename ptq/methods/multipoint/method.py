"""The multipoint method: options in, every number of points of a weight out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from ptq import formats, registry
from ptq.errors import OptionError, suggest
from ptq.formats import Format
from ptq.formats.integer import IntFormat
from ptq.ladder import Ladder
from ptq.method import Request
from ptq.methods.multipoint.greedy import greedy_rows
from ptq.methods.multipoint.radix import Radix
from ptq.qtensor import Term
from ptq.scheme import Scheme
from ptq.solve import ROUNDINGS, Curvature, Solution, scale_grid, solve

_GREEDY: Final = {"greedy": "exact", "greedy-grid": "grid"}
SEARCHES: Final = ("radix", *_GREEDY)
GREEDY_POINTS: Final = 4


LAST: Final = formats.get("int2")
"""What the last point of a row may be, where bits or a tolerance decide and not a number of points."""


@dataclass(frozen=True)
class Multipoint:
    """Options of multipoint quantization; `rounding` is about radix points, greedy ones always are the nearest."""

    OPTIONS: ClassVar[frozenset[str]] = frozenset({"bits", "tolerance", "points", "per", "search", "rounding"})

    base: Format
    search: str = "radix"
    rounding: str = "hessian"
    portable: bool = False
    last: Format | None = None
    """A narrower format that the last point of a row may have, so that rows can have sizes in between."""

    def __post_init__(self) -> None:
        if self.search not in SEARCHES:
            raise OptionError(f"unknown --search {self.search!r}; {suggest(self.search, SEARCHES)}")
        registry.get("--rounding", self.rounding, ROUNDINGS)
        if self.search in _GREEDY and self.rounding != "nearest":
            raise OptionError(
                f"greedy points are rounded to nearest, not by {self.rounding}; use --rounding nearest, or radix"
            )

    @classmethod
    def of(cls, request: Request) -> Multipoint:
        """The method for a request.

        Raises:
            OptionError: the scheme is not of integers with a scale a row, there are as many points as it cannot have,
                or rounding needs data that is not there.

        """
        scheme, options = request.scheme, request.options
        base = scheme.format
        if not isinstance(base, IntFormat) or scheme != Scheme(base) or not base.signed:
            raise OptionError(
                f"multipoint sums points of int2 to int8 with a scale a channel, not {scheme.describe()}; "
                f"use --method gptq or rtn for it"
            )
        search, rounding = options.get("search") or "radix", options.get("rounding")
        rounding = rounding or ("hessian" if request.has_data and search == "radix" else "nearest")
        if registry.get("--rounding", rounding, ROUNDINGS).needs and not request.has_data:
            raise OptionError(f"--rounding {rounding} needs calibration data; give --data")
        points = options.get("points")
        made = cls(base, search, rounding, request.portable, LAST if points is None else None)
        most = made.most_points
        if points is not None and not 1 <= points <= most:
            fix = "one at least" if points < 1 else f"at most {most}, or a wider base format"
            raise OptionError(f"--points {points} of {base.name} is not between 1 and {most}; give {fix}")
        return made

    @property
    def scheme(self) -> Scheme:
        """That of the points of the base format."""
        return Scheme(self.base)

    @property
    def needs(self) -> frozenset[str]:
        """The statistics of its inputs that a weight has to come with."""
        return ROUNDINGS[self.rounding].needs

    @property
    def integral(self) -> bool:
        """Radix points are the digits of an integer."""
        return self.search not in _GREEDY

    @property
    def most_points(self) -> int:
        """How many points of the base format a row can have."""
        sums = [points for points in self.sums() if points[-1] == self.base]
        return GREEDY_POINTS if self.search in _GREEDY else len(sums)

    def ladder(
        self, weight: Tensor, curvature: Curvature, *, points: int | None = None, least_scale: Tensor | None = None
    ) -> Ladder:
        """Quantize a weight `(groups, rows, in)` to all sums of points, or to those of up to `points` points.

        `least_scale (out,)` bounds the scales of the rows from below, where the arithmetic downstream needs it.
        """
        power = curvature.errors(curvature.arranged(weight)).reshape(-1)
        if self.search in _GREEDY:
            rungs = self._greedy(weight, min(points or GREEDY_POINTS, GREEDY_POINTS))
            error = torch.stack([self._error(weight, rung, curvature) for rung in rungs])
            return Ladder(rungs, error, power)
        sums = {formats: radix for formats, radix in self.sums().items() if len(formats) <= (points or len(formats))}
        least = None if least_scale is None else least_scale.reshape(*weight.shape[:2], 1)
        grid = scale_grid(weight, [radix.limit for radix in sums.values()], curvature, least)
        rounding = ROUNDINGS[self.rounding]
        found = [solve(weight, radix.grid, curvature, rounding, grid) for radix in sums.values()]
        terms = tuple(_terms(each, *one) for each, one in zip(found, sums.items(), strict=True))
        return Ladder(terms, torch.stack([each.error.reshape(-1) for each in found]), power)

    def sums(self) -> dict[tuple[Format, ...], Radix]:
        """The formats of the points that a row may be a sum of, and their number systems, by size."""
        sums = {}
        points: tuple[Format, ...] = (self.base,)
        while (radix := self._radix(points)).fits(portable=self.portable):
            sums[points] = radix
            between = (*points, self.last) if self.last is not None and self.last.bits < self.base.bits else points
            if (radix := self._radix(between)).fits(portable=self.portable):
                sums[between] = radix
            points = (*points, self.base)
        return sums

    def _radix(self, points: tuple[Format, ...]) -> Radix:
        return Radix.of([int(fmt.max) for fmt in points], portable=self.portable)

    def _greedy(self, weight: Tensor, points: int) -> tuple[tuple[Term, ...], ...]:
        found = greedy_rows(
            weight.flatten(0, 1), int(self.base.max), points, search=_GREEDY[self.search], stored=torch.bfloat16
        )
        terms = tuple(Term(point.integers, point.scale.float(), self.base) for point in found)
        return tuple(terms[:n] for n in range(1, points + 1))

    def _error(self, weight: Tensor, terms: tuple[Term, ...], curvature: Curvature) -> Tensor:
        approximation = torch.stack([term.values * term.scale[:, None] for term in terms]).sum(0)
        residual = weight - approximation.reshape(weight.shape)
        return curvature.errors(curvature.arranged(residual)).reshape(-1)


def _terms(found: Solution, formats: tuple[Format, ...], radix: Radix) -> tuple[Term, ...]:
    planes = radix.split(found.values.flatten(0, 1).float())
    scale = found.scale.reshape(-1)
    parts = zip(planes, radix.worths, formats, strict=True)
    return tuple(Term(plane.to(torch.int8), scale * float(worth), fmt) for plane, worth, fmt in parts)
