"""The multipoint method: options in, every number of points of a weight out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from ptq import formats
from ptq.errors import OptionError, suggest
from ptq.formats import Format
from ptq.ladder import Ladder
from ptq.methods.multipoint.greedy import greedy_rows
from ptq.methods.multipoint.hessian import Curvature
from ptq.methods.multipoint.radix import Radix
from ptq.methods.multipoint.solution import Solution
from ptq.methods.multipoint.solve import scale_grid, solve
from ptq.qtensor import Term

_GREEDY: Final = {"greedy": "exact", "greedy-grid": "grid"}
SEARCHES: Final = ("radix", *_GREEDY)
ROUNDINGS: Final = ("nearest", "hessian")
GREEDY_POINTS: Final = 4


@dataclass(frozen=True)
class Multipoint:
    """Options of multipoint quantization; `rounding` is about radix points, greedy ones always are the nearest."""

    base: Format
    search: str = "radix"
    rounding: str = "hessian"
    portable: bool = False

    def __post_init__(self) -> None:
        if self.search not in SEARCHES:
            raise OptionError(f"unknown --search {self.search!r}; {suggest(self.search, SEARCHES)}")
        if self.rounding not in ROUNDINGS:
            raise OptionError(f"unknown --rounding {self.rounding!r}; {suggest(self.rounding, ROUNDINGS)}")
        if self.search in _GREEDY and self.rounding == "hessian":
            raise OptionError("greedy points are rounded to nearest, not by hessian; use --rounding nearest, or radix")

    @property
    def needs(self) -> frozenset[str]:
        """The statistics of its inputs that a weight has to come with."""
        return frozenset({"moment"}) if self.rounding == "hessian" else frozenset()

    @property
    def most_points(self) -> int:
        """How many points a row can have."""
        return GREEDY_POINTS if self.search in _GREEDY else self._radix.most_points

    def ladder(
        self, weight: Tensor, curvature: Curvature, *, most_points: int | None = None, least_scale: Tensor | None = None
    ) -> Ladder:
        """Quantize a weight `(groups, rows, in)` with 1 to `most_points` points.

        `least_scale (out,)` bounds the scales of the rows from below, where the arithmetic downstream needs it.
        """
        points = min(most_points or self.most_points, self.most_points)
        power = curvature.errors(curvature.arranged(weight)).reshape(-1)
        rungs = self._greedy(weight, points) if self.search in _GREEDY else None
        if rungs is not None:
            error = torch.stack([self._error(weight, rung, curvature) for rung in rungs])
            return Ladder(rungs, error, power)
        least = None if least_scale is None else least_scale.reshape(weight.shape[:2])
        limits = [self._radix.limit(n) for n in range(1, points + 1)]
        grid = scale_grid(weight, limits, curvature, least)
        feedback = self.rounding == "hessian"
        solutions = [solve(weight, limit, curvature, feedback=feedback, grid=grid) for limit in limits]
        radix_rungs = tuple(self._terms(found, n + 1) for n, found in enumerate(solutions))
        return Ladder(radix_rungs, torch.stack([found.error.reshape(-1) for found in solutions]), power)

    @property
    def _radix(self) -> Radix:
        return Radix.of(int(self.base.max), portable=self.portable)

    def _terms(self, found: Solution, points: int) -> tuple[Term, ...]:
        rows = found.integers.flatten(0, 1).float()
        planes = self._radix.digits(rows, points)
        scale = found.scale.reshape(-1)
        ratio = float(self._radix.ratio)
        return tuple(
            Term(plane.to(torch.int8), scale * ratio ** (points - 1 - k), self.base) for k, plane in enumerate(planes)
        )

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


def int8(*, portable: bool = False, rounding: str = "hessian") -> Multipoint:
    """One point of eight bits: the ordinary int8 quantization, for sites that are to have it."""
    return Multipoint(formats.get("int8"), rounding=rounding, portable=portable)
