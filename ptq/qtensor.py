"""A quantized weight: a sum of terms `scale * (values - zero point)`, each term over all rows or over some.

One term is ordinary quantization, several are multipoint (arXiv:2002.09049). When the scales of every row are powers
of one integer apart, the sum is itself one scale times one integer per weight, and only that scale is stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ptq.chunks import chunks
from ptq.errors import OptionError
from ptq.formats import INT8_MAX
from ptq.scales import storage_bits
from ptq.term import Blocks, Kind, Term

__all__ = ["Blocks", "Kind", "QTensor", "Term", "index_bits", "places_bits"]

_EXACT = 2.0**53
"""Up to here float64 holds every integer, and int64 does."""


@dataclass(frozen=True, eq=False)
class QTensor:
    """A weight `(out, in)` as a sum of terms, the coarsest first; the points of a row have one factor a group."""

    terms: tuple[Term, ...]
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        for term in self.terms:
            covered = zip(term.values.shape, (term.rows, term.columns), self.shape, strict=True)
            if not all(_fits(*along) for along in covered):
                raise OptionError(
                    f"a term {tuple(term.values.shape)} does not fit a tensor {self.shape}; cover its rows"
                )
        factors = self.factors
        if factors is not None and any(bool((factors[_rows(term)] != _factors(term)).any()) for term in self.terms):
            raise OptionError("the points of a row have other factors of groups; give all points of a row the same")

    @property
    def points(self) -> Tensor:
        """How many terms cover each row; int64 `(out,)`."""
        count = torch.zeros(self.shape[0], dtype=torch.int64, device=self._device)
        for term in self.terms:
            count[_rows(term)] += 1
        return count

    @property
    def mixes(self) -> Mapping[str, int]:
        """How many rows there are of each sum of formats, such as "int4" and "int4+int2"."""
        names = [""] * self.shape[0]
        for term in self.terms:
            for row in range(self.shape[0]) if term.rows is None else term.rows.tolist():
                names[row] += ("+" if names[row] else "") + term.describe()
        return dict(Counter(names))

    @property
    def opening(self) -> tuple[bool, ...]:
        """Which terms begin rows: the factors of groups are stored with those."""
        begun, opening = torch.zeros(self.shape[0], dtype=torch.bool, device=self._device), []
        for term in self.terms:
            opening.append(not bool(begun[_rows(term)].all()))
            begun[_rows(term)] = True
        return tuple(opening)

    @property
    def factors(self) -> Tensor | None:
        """The factors of the groups of each row, float64 `(out, groups)`, 1 in rows without; None where no row has any.

        Raises:
            OptionError: the terms have groups of several sizes.

        """
        blocks = [term.blocks for term in self.terms if term.blocks is not None]
        if not blocks:
            return None
        if len({each.size for each in blocks}) > 1:
            raise OptionError("terms have groups of several sizes; give all the same")
        held = torch.ones(self.shape[0], blocks[0].factors.shape[1], dtype=torch.float64, device=self._device)
        for term in self.terms:
            held[_rows(term)] = _factors(term)
        return held

    @property
    def value_bits(self) -> int:
        """What the terms take, and the factors of groups, which the points of a row have in common."""
        begun = (term.blocks for term, opens in zip(self.terms, self.opening, strict=True) if opens and term.blocks)
        return sum(term.storage_bits for term in self.terms) + sum(b.factors.numel() * b.format.bits for b in begun)

    @property
    def scales(self) -> tuple[Tensor, ...]:
        """What is stored of the scales: the finest of each row, or those of each term.

        That is where there is no integer ratio, and where each term has one scale for all its rows.
        """
        own = tuple(term.scale for term in self.terms)
        if self.integer_ratios() is None:
            return own
        finest = (self.finest_scale(),)
        alike = all(bool((scale == scale[:1]).all()) for scale in own)
        return min(finest, own, key=lambda each: sum(map(storage_bits, each))) if alike else finest

    @property
    def storage_bits(self) -> int:
        """All that is stored: the terms, the scales of rows, and which rows and columns partial terms cover."""
        covered = (pair for term in self.terms for pair in zip((term.rows, term.columns), self.shape, strict=True))
        which = sum(places_bits(places, count) for places, count in covered if places is not None)
        return self.value_bits + which + sum(map(storage_bits, self.scales))

    @property
    def bits_per_weight(self) -> float:
        """`storage_bits` over the number of weights."""
        return self.storage_bits / max(self.shape[0] * self.shape[1], 1)

    def dequantize(self) -> Tensor:
        """The weight, float32 `(out, in)`: summed in float64 and rounded once."""
        dense = torch.empty(self.shape, device=self._device)
        for at, part in self._parts():
            total = torch.zeros(part.shape, dtype=torch.float64, device=self._device)
            for term in part.terms:
                total[_rows(term)] += part._wide(term, term.numbers()) * term.scale.double()[:, None]
            dense[at] = total
        return dense

    def _parts(self) -> Iterator[tuple[slice, QTensor]]:
        """Some rows at a time, and which they are."""
        for at in chunks(*self.shape):
            yield at, QTensor(tuple(term.of_rows(at) for term in self.terms), (at.stop - at.start, self.shape[1]))

    def integer_ratios(self) -> tuple[int, ...] | None:
        """How many steps of a term make one of the point before it, by term and the same for all its rows.

        1 where no row has a point before. None when there is a term without such an integer.
        """
        ratios = []
        coarse = torch.full((self.shape[0],), torch.nan, dtype=torch.float64, device=self._device)
        for term in self.terms:
            ratio = _integer_ratio(coarse[_rows(term)], term.scale.double())
            if ratio is None:
                return None
            ratios.append(ratio)
            coarse[_rows(term)] = term.scale.double()
        return tuple(ratios)

    @property
    def fits_int8(self) -> bool:
        """Whether every row is one scale times `step` times integers that an int8 holds."""
        return self._fit_int8(Term.numbers, self.step)

    @property
    def digits_fit_int8(self) -> bool:
        """The same before the factors of groups are multiplied in."""
        return self._fit_int8(Term.centred, min((term.format.step for term in self.terms), default=1.0))

    def _fit_int8(self, numbers: Callable[[Term], Tensor], step: float) -> bool:
        ratios = self.integer_ratios()
        return ratios is not None and all(part._sum_fits(numbers, step, ratios) for _, part in self._parts())

    def _sum_fits(self, numbers: Callable[[Term], Tensor], step: float, ratios: Sequence[int]) -> bool:
        counts = [numbers(term) / step for term in self.terms]
        if any(bool(((count != count.round()) | (count.abs() > _EXACT)).any()) for count in counts):
            return False
        return bool((self._summed(numbers, step, ratios).abs() <= INT8_MAX).all())

    def finest_scale(self) -> Tensor:
        """The scale of the last point of each row, `(out,)`; what `integers` are multiplied by."""
        finest = torch.zeros(self.shape[0], dtype=torch.float64, device=self._device)
        for term in self.terms:
            finest[_rows(term)] = term.scale.double()
        return finest.float()

    @property
    def step(self) -> float:
        """What the numbers of all points are multiples of."""
        return min((term.step for term in self.terms), default=1.0)

    def integers(self) -> Tensor:
        """The sum of the points of each row as multiples of its finest scale times `step`; int64 `(out, in)`.

        Raises:
            OptionError: the scales have no integer ratio.

        """
        ratios = self.integer_ratios()
        if ratios is None:
            raise OptionError("the scales of the points have no integer ratio; use radix points, or dequantize")
        return self._summed(Term.numbers, self.step, ratios)

    def _summed(self, numbers: Callable[[Term], Tensor], step: float, ratios: Sequence[int]) -> Tensor:
        total = torch.zeros(self.shape, dtype=torch.int64, device=self._device)
        for term, ratio in zip(self.terms, ratios, strict=True):
            rows = _rows(term)
            total[rows] = total[rows] * ratio + (self._wide(term, numbers(term)) / step).long()
        return total

    def _wide(self, term: Term, numbers: Tensor) -> Tensor:
        """The numbers of a term, zeros in the columns that it does not cover; float64 `(rows, in)`."""
        if term.columns is None:
            return numbers
        wide = torch.zeros(len(term.values), self.shape[1], dtype=torch.float64, device=self._device)
        wide[:, term.columns] = numbers
        return wide

    @property
    def _device(self) -> torch.device | None:
        return self.terms[0].values.device if self.terms else None


def _integer_ratio(coarse: Tensor, fine: Tensor) -> int | None:
    """The integer by which all coarse scales are larger; rows whose coarse scale is NaN have none to compare."""
    followed = ~coarse.isnan()
    known = followed & (fine > 0)
    if not known.any():
        return None if coarse[followed].any() else 1
    ratio = (coarse[known][0] / fine[known][0]).round()
    return int(ratio) if ratio >= 1 and bool((coarse == fine * ratio)[followed].all()) else None


def _rows(term: Term) -> Tensor | slice:
    return slice(None) if term.rows is None else term.rows


def _factors(term: Term) -> Tensor | float:
    return 1.0 if term.blocks is None else term.blocks.factors.double()


def _fits(length: int, places: Tensor | None, count: int) -> bool:
    """Whether a term covers rows or columns that a tensor with `count` of them has."""
    return (
        length == count if places is None else length == len(places) and bool(((places >= 0) & (places < count)).all())
    )


def places_bits(places: Tensor, count: int) -> int:
    """What it takes to say which rows or columns these are: their indices, or a bit for each of all `count`."""
    return min(len(places) * index_bits(count), count)


def index_bits(count: int) -> int:
    """The width of an index of a row or column, in whole bytes."""
    return next(bits for bits in (8, 16, 32) if count <= 2**bits or bits == 32)
