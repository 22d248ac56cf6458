"""The multipoint method: options in, every number of points of a weight out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import repeat
from typing import ClassVar, Final

import torch
from torch import Tensor

from ptq import formats, registry
from ptq.chunks import chunks
from ptq.errors import OptionError, suggest
from ptq.formats import INT8_MAX, Format, most_steps
from ptq.formats.integer import IntFormat
from ptq.ladder import Ladder
from ptq.method import Request, check_singly, rounding_of
from ptq.methods.multipoint.greedy import greedy_rows
from ptq.methods.multipoint.radix import Radix
from ptq.qtensor import Term
from ptq.scales import ScaleGrid
from ptq.scheme import UNEVEN, Scheme, alike
from ptq.solve import ROUNDINGS, Curvature, grid_of, one_term, scale_grid

_GREEDY: Final = {"greedy": "exact", "greedy-grid": "grid"}
SEARCHES: Final = ("radix", *_GREEDY)
GREEDY_POINTS: Final = 4

_NARROWING: Final = 1 / 8
"""So many bits above the base format, narrower rows no longer pay: on EfficientNet-Lite0, rows of int3 beside int4 are
worth 0.4 dB at 4.1 bits and -0.2 dB at 4.25; at 3.5 bits they are 0.7 dB better than rows of int3 with more points."""

_LEAST_BITS: Final = 3
"""Rows of a single point of int2 cost more than they save: 0.3 dB of EfficientNet-Lite0 in 3.5 bits."""


@dataclass(frozen=True)
class Multipoint:
    """Options of multipoint quantization; `rounding` is about radix points, greedy ones always are the nearest."""

    OPTIONS: ClassVar[frozenset[str]] = frozenset({"bits", "tolerance", "points", "per", "search", "rounding"})

    scheme: Scheme
    """That of the points of the base format: several points of a row share what its numbers share."""
    search: str = "radix"
    rounding: str = "hessian"
    portable: bool = False
    first: Format | None = None
    """A narrower format that the only point of a row may have, where few bits or a tolerance are given."""
    wider: Format | None = None
    """A wider one, where a row is more than one point of the base and less than two: with a narrow last point the sums
    are half a bit short of what they take, as three numbers are less than two bits. Sums of unsigned points are not."""
    last: Format | None = None
    """A narrower format that the last of several points may have, where no number of points is."""

    def __post_init__(self) -> None:
        if self.search not in SEARCHES:
            raise OptionError(f"unknown --search {self.search!r}; {suggest(self.search, SEARCHES)}")
        registry.get("--rounding", self.rounding, ROUNDINGS)
        if self.search in _GREEDY and self.rounding != "nearest":
            raise OptionError(
                f"greedy points are rounded to nearest, not by {self.rounding}; use --rounding nearest, or radix"
            )
        whole = isinstance(self.base, IntFormat) and self.base.signed
        if self.search in _GREEDY and (self.scheme != Scheme(self.base) or not whole):
            raise OptionError(
                f"greedy points are signed integers with a scale a channel, not {self.scheme.describe()}; "
                f"use --search radix"
            )

    @classmethod
    def of(cls, request: Request) -> Multipoint:
        """The method for a request.

        Raises:
            OptionError: the scheme is not of integers, there are as many points as it cannot have, or rounding needs
                data that is not there.

        """
        scheme, options = request.scheme, request.options
        base = scheme.format
        if not isinstance(base, (IntFormat, *UNEVEN)):
            raise OptionError(
                f"multipoint sums points of integers, not of {scheme.describe()}; use --method gptq or rtn for it"
            )
        search = options.get("search") or "radix"
        rounding = rounding_of(request, "nearest") if search in _GREEDY else rounding_of(request)
        check_singly(f"--rounding {rounding}", rounding, scheme)
        points = options.get("points")
        first = last = wider = None
        if points is None and base.min < 0:
            most = most_steps(portable=request.portable)
            wider = next((fmt for fmt in alike(base) if fmt.bits > base.bits and fmt.reach <= most), None)
        if points is None and (narrower := _narrower(base)):
            bits, last = options.get("bits"), _narrower(_digits(base))[0]
            tight = options.get("tolerance") is not None
            if bits is not None:  # a layer that a rule gives far wider weights than all have on average keeps them
                tight = narrower[-1].bits - 1 <= bits < scheme.bits + _NARROWING
            first = narrower[-1] if tight and narrower[-1].bits >= _LEAST_BITS else None
        made = cls(scheme, search, rounding, request.portable, first, wider, last)
        most = made.most_points
        if points is not None and not 1 <= points <= most:
            fix = "one at least" if points < 1 else f"at most {most}, or a wider base format"
            raise OptionError(f"--points {points} of {base.name} is not between 1 and {most}; give {fix}")
        return made

    @property
    def base(self) -> Format:
        """The format of the only point of a row."""
        return self.scheme.format

    @property
    def digits(self) -> Format:
        """The format of several points: the base, or integers of its width where the numbers of that are no digits."""
        return _digits(self.base)

    @property
    def choices(self) -> tuple[Scheme, ...]:
        """Of the base format, and of the others that the only point of a row may have."""
        return tuple(self.scheme.on(fmt, self._most) for fmt in self._single)

    @property
    def needs(self) -> frozenset[str]:
        """Those of the rounding."""
        return ROUNDINGS[self.rounding].statistics

    @property
    def integral(self) -> bool:
        """Radix points are the digits of an integer."""
        return self.search not in _GREEDY

    @property
    def most_points(self) -> int:
        """How many points of the base format a row can have."""
        sums = [points for points in self.sums() if points[-1] in {self.base, self.digits}]
        return GREEDY_POINTS if self.search in _GREEDY else len(sums)

    def ladder(
        self, weight: Tensor, curvature: Curvature, *, points: int | None = None, least_scale: Tensor | None = None
    ) -> Ladder:
        """Quantize a weight `(groups, rows, in)` to all sums of points, or to those of up to `points` base points.

        `least_scale (out,)` bounds the scales of the rows from below, where the arithmetic downstream needs it.
        """
        power = curvature.power(weight).reshape(-1)
        if self.search in _GREEDY:
            rungs = self._greedy(weight, min(points or GREEDY_POINTS, GREEDY_POINTS), least_scale)
            error = torch.stack([self._error(weight, rung, curvature) for rung in rungs])
            return Ladder(rungs, error, power)
        sums = self.sums()
        if points is not None:
            sums = {each: radix for each, radix in sums.items() if len(each) <= points and self._wide(each)}
        put = partial(one_term, weight, curvature=curvature, rounding=ROUNDINGS[self.rounding], most=self._most)
        if self._one_scale:
            grids = self._of_one_scale(sums, put, least_scale)
        else:
            grids = [self._grid(weight, list(sums.values()), curvature, least_scale)] * len(sums)
        made, errors = [], []
        for (mix, radix), grid in zip(sums.items(), grids, strict=True):
            one = put(self.scheme.on(radix.grid, self._most), least_scale=least_scale, grid=grid)
            made.append(_points(one.rungs[0][0], mix, radix))
            errors.append(one.error)
        return Ladder(tuple(made), torch.cat(errors), power, base=list(sums).index((self.base,)))

    def _grid(
        self, weight: Tensor, sums: Sequence[Radix], curvature: Curvature, least_scale: Tensor | None
    ) -> ScaleGrid | None:
        """The scales that are the same whatever rung a row is on; None where each rung has its own."""
        least = None if least_scale is None else least_scale.reshape(*weight.shape[:2], 1)
        if self.scheme.group is not None:
            coarsest = self.scheme.on(sums[0].grid, self._most)
            return None if self.scheme.integral else grid_of(weight, coarsest, curvature, least)
        if not self.scheme.symmetric:
            return None
        return scale_grid(weight, [radix.limit for radix in sums], curvature, least)

    @property
    def _one_scale(self) -> bool:
        """Whether a term has one scale for all its rows."""
        return self.scheme.per_tensor and self.scheme.group is None

    def _of_one_scale(
        self, sums: Mapping[tuple[Format, ...], Radix], put: Callable[..., Ladder], least_scale: Tensor | None
    ) -> list[ScaleGrid | None]:
        """One scale by sum, such that first points of a format have one whatever follows: that of the format alone."""
        units = {}
        for first in {points[0] for points in sums} & {self.base, self.digits}:
            parts = math.lcm(*(radix.worths[0] for points, radix in sums.items() if points[0] == first))
            least = None if least_scale is None else least_scale * parts
            scale = put(replace(self.scheme, format=first), least_scale=least).rungs[0][0].scale[0]
            units[first] = (scale / parts).bfloat16().float(), parts  # its products with integers are exact
        return [
            ScaleGrid.of_one(units[first][0] * (units[first][1] // radix.worths[0])) if first in units else None
            for (first, *_), radix in sums.items()
        ]

    def sums(self) -> dict[tuple[Format, ...], Radix]:
        """The formats of the points that a row may be a sum of, and their number systems, by size."""
        sums: dict[tuple[Format, ...], Radix] = {(fmt,): self._radix(fmt) for fmt in self._single}
        before: tuple[Format, ...] = (self.digits,)
        reached = self._radix(*before).limit
        while True:
            for fmt in (self.last, self.digits):
                radix = None if fmt is None else self._radix(*before, fmt)
                if fmt is None or radix is None or (self._one_scale and radix.cut):
                    continue
                if reached < radix.limit <= self._most:
                    sums[(*before, fmt)] = radix
            before = (*before, self.digits)
            if before not in sums:
                return sums
            reached = sums[before].limit

    @property
    def _single(self) -> Iterator[Format]:
        """The formats of the only point of a row."""
        return (fmt for fmt in (self.first, self.base, self.wider) if fmt is not None)

    def _radix(self, *formats: Format) -> Radix:
        return Radix.of(formats, portable=self.portable)

    def _wide(self, mix: Sequence[Format]) -> bool:
        """Whether no point is narrower than the base."""
        return set(mix) in ({self.base}, {self.digits})

    @property
    def _most(self) -> int:
        return most_steps(portable=self.portable)

    def _greedy(self, weight: Tensor, points: int, least: Tensor | None) -> tuple[tuple[Term, ...], ...]:
        """Rows whose sum has finer steps in int8 than `least (out,)` are next to nothing beside their bias: zeros."""
        rows = weight.flatten(0, 1)
        faint = torch.zeros(len(rows), dtype=torch.bool) if least is None else rows.abs().amax(1) < INT8_MAX * least
        rows = rows.masked_fill(faint[:, None], 0.0)
        found = greedy_rows(rows, int(self.base.max), points, search=_GREEDY[self.search], stored=torch.bfloat16)
        scales = [point.scale.float() for point in found]
        if least is not None:
            scales[0] = torch.where(faint, least, scales[0])
        terms = tuple(Term(point.integers, scale, self.base) for point, scale in zip(found, scales, strict=True))
        return tuple(terms[:n] for n in range(1, points + 1))

    def _error(self, weight: Tensor, terms: tuple[Term, ...], curvature: Curvature) -> Tensor:
        approximation = torch.stack([term.values * term.scale[:, None] for term in terms]).sum(0)
        residual = weight - approximation.reshape(weight.shape)
        return curvature.errors(curvature.arranged(residual)).reshape(-1)


def _narrower(base: Format) -> list[Format]:
    return [fmt for fmt in alike(base) if fmt.bits < base.bits]


def _digits(base: Format) -> Format:
    return formats.get(f"int{base.bits}") if isinstance(base, UNEVEN) else base


def _points(term: Term, formats: tuple[Format, ...], radix: Radix) -> tuple[Term, ...]:
    """A term of sums as its points, which have the digits of its numbers and zero points."""
    zeros = repeat(None) if term.zero_point is None else _planes(term.zero_point, radix)
    parts = zip(_planes(term.values, radix), radix.worths, formats, zeros, strict=False)
    return tuple(
        Term(plane, term.scale * float(worth), fmt, None, term.blocks, zero) for plane, worth, fmt, zero in parts
    )


def _planes(numbers: Tensor, radix: Radix) -> list[Tensor]:
    """The digits of whole numbers `(rows, …)` in bytes, the coarsest first."""
    kind = torch.int8 if radix.signed else torch.uint8
    split = ([plane.to(kind) for plane in radix.split(numbers[at].float())] for at in chunks(*numbers.shape))
    return [torch.cat(planes) for planes in zip(*split, strict=True)]
