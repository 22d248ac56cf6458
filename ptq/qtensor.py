"""A quantized weight: a sum of terms `scale * (values - zero point)`, each term over all rows or over some.

One term is ordinary quantization, several are multipoint (arXiv:2002.09049). When the scales of every row are powers
of one integer apart, the sum is itself one scale times one integer per weight, and only that scale is stored.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ptq.errors import OptionError
from ptq.formats import INT8_MAX, Format
from ptq.scales import storage_bits

_EXACT = 2.0**53
"""Up to here float64 holds every integer, and int64 does."""

_TABLE_BITS = 32
"""Of each number in a table that is stored with a tensor."""


@dataclass(frozen=True, eq=False)
class Blocks:
    """Groups of `size` weights along a row whose scale is the row's times a factor.

    `factors (rows, groups)` are numbers of the format; the last group of a row may be shorter.
    """

    size: int
    factors: Tensor
    format: Format


@dataclass(frozen=True, eq=False)
class Term:
    """Rows `scale[:, None] * values`: values `(rows, in)` are numbers of the format, scales float32 `(rows,)`.

    `rows` and `columns` are those of the tensor that it covers, ascending int64; None when it covers all. `zero_point
    (rows, groups)`, with one group where there are no blocks, holds numbers of the format that are taken off the
    values. A term of some columns, values `(rows, columns)`, has neither blocks nor zero points.
    """

    values: Tensor
    scale: Tensor
    format: Format
    rows: Tensor | None = None
    blocks: Blocks | None = None
    zero_point: Tensor | None = None
    columns: Tensor | None = None

    def __post_init__(self) -> None:
        shapes = [tuple(part.shape) for part in (self.values, self.scale, self.rows) if part is not None]
        if self.values.ndim != 2 or any(shape != shapes[0][:1] for shape in shapes[1:]):
            raise OptionError(
                f"values, scales (and rows) of a term are {', '.join(map(str, shapes))}; give (rows, in) and (rows,)"
            )
        if self.scale.dtype != torch.float32:
            raise OptionError(f"the scales of a term are {self.scale.dtype}, they are stored as float32; round them")
        for name, covered in (("rows", self.rows), ("columns", self.columns)):
            if covered is not None and not bool((covered.diff() > 0).all()):
                raise OptionError(f"the {name} of a term repeat or descend; sort them")
        if self.columns is not None and not (self.blocks is None and self.zero_point is None):
            raise OptionError("a term of some columns has blocks or zero points; cover all columns with it")
        wanted = (len(self.values), self.groups)
        factors = None if self.blocks is None else self.blocks.factors
        for name, part in (("factors", factors), ("zero points", self.zero_point)):
            if part is not None and tuple(part.shape) != wanted:
                raise OptionError(f"the {name} of a term are {tuple(part.shape)}; give (rows, groups), {wanted}")

    @property
    def groups(self) -> int:
        """How many groups a row has."""
        return 1 if self.blocks is None else -(-self.values.shape[1] // self.blocks.size)

    @property
    def step(self) -> float:
        """What all `numbers` are multiples of."""
        return self.format.step * (1.0 if self.blocks is None else self.blocks.format.step)

    @property
    def storage_bits(self) -> int:
        """Values, factors and zero points at the width of their format; and its table, where no other tensor has it."""
        factors = 0 if self.blocks is None else self.blocks.factors.numel() * self.blocks.format.bits
        zeros = 0 if self.zero_point is None else self.zero_point.numel() * self.format.bits
        table = _TABLE_BITS << self.format.bits if self.format.own else 0
        return self.values.numel() * self.format.bits + factors + zeros + table

    def describe(self) -> str:
        """The format and what shares a scale, such as "int4/32"; "int4 of some columns" where it does not cover all."""
        if self.columns is not None:
            return f"{self.format.name} of some columns"
        return self.format.name if self.blocks is None else f"{self.format.name}/{self.blocks.size}"

    def numbers(self) -> Tensor:
        """What the scale of a row multiplies: values less zero point, times the factors of groups; float64."""
        numbers = self.values.double()
        if self.zero_point is not None:
            numbers = numbers - self.wide(self.zero_point).double()
        return numbers if self.blocks is None else numbers * self.wide(self.blocks.factors).double()

    def wide(self, groups: Tensor) -> Tensor:
        """What belongs to groups `(rows, groups)` by column, `(rows, in)`."""
        columns = self.values.shape[1]
        return groups.repeat_interleave(columns if self.blocks is None else self.blocks.size, 1)[:, :columns]


@dataclass(frozen=True, eq=False)
class QTensor:
    """A weight `(out, in)` as a sum of terms, the coarsest first."""

    terms: tuple[Term, ...]
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        for term in self.terms:
            covered = zip(term.values.shape, (term.rows, term.columns), self.shape, strict=True)
            if not all(_fits(*along) for along in covered):
                raise OptionError(
                    f"a term {tuple(term.values.shape)} does not fit a tensor {self.shape}; cover its rows"
                )

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
    def storage_bits(self) -> int:
        """All that is stored: the terms, the scales of rows, and which rows and columns partial terms cover."""
        values = sum(term.storage_bits for term in self.terms)
        covered = (pair for term in self.terms for pair in zip((term.rows, term.columns), self.shape, strict=True))
        which = sum(places_bits(places, count) for places, count in covered if places is not None)
        scales = [term.scale for term in self.terms] if self.integer_ratios() is None else [self.finest_scale()]
        return values + which + sum(storage_bits(scale) for scale in scales)

    @property
    def bits_per_weight(self) -> float:
        """`storage_bits` over the number of weights."""
        return self.storage_bits / max(self.shape[0] * self.shape[1], 1)

    def dequantize(self) -> Tensor:
        """The weight, float32 `(out, in)`: summed in float64 and rounded once."""
        total = torch.zeros(self.shape, dtype=torch.float64, device=self._device)
        for term in self.terms:
            total[_rows(term)] += self._numbers(term) * term.scale.double()[:, None]
        return total.float()

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
        if self.integer_ratios() is None:
            return False
        counts = [term.numbers() / self.step for term in self.terms]
        if any(bool(((count != count.round()) | (count.abs() > _EXACT)).any()) for count in counts):
            return False
        return bool((self.integers().abs() <= INT8_MAX).all())

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
        total = torch.zeros(self.shape, dtype=torch.int64, device=self._device)
        for term, ratio in zip(self.terms, ratios, strict=True):
            rows = _rows(term)
            total[rows] = total[rows] * ratio + (self._numbers(term) / self.step).long()
        return total

    def _numbers(self, term: Term) -> Tensor:
        """The numbers of a term, zeros in the columns that it does not cover; float64 `(rows, in)`."""
        if term.columns is None:
            return term.numbers()
        wide = torch.zeros(len(term.values), self.shape[1], dtype=torch.float64, device=self._device)
        wide[:, term.columns] = term.numbers()
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
