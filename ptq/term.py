"""One term of a weight, `scale * (values - zero point)`, over all rows and columns or over some."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ptq.errors import OptionError
from ptq.formats import Format

Kind = tuple[Format, int | None, Format | None]
"""A format, and the size and format of the factors of groups."""

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
    def kind(self) -> Kind:
        """What terms have in common that may be put together: the format, and the size and format of the groups."""
        return self.format, *((None, None) if self.blocks is None else (self.blocks.size, self.blocks.format))

    @property
    def step(self) -> float:
        """What all `numbers` are multiples of."""
        return self.format.step * (1.0 if self.blocks is None else self.blocks.format.step)

    @property
    def storage_bits(self) -> int:
        """Values and zero points at the width of their format; and its table, where no other tensor has it."""
        zeros = 0 if self.zero_point is None else self.zero_point.numel() * self.format.bits
        table = _TABLE_BITS << self.format.bits if self.format.own else 0
        return len(self.values) * self.format.row_bits(self.values.shape[1]) + zeros + table

    def describe(self) -> str:
        """The format and what shares a scale, such as "int4/32"; "int4 of some columns" where it does not cover all."""
        if self.columns is not None:
            return f"{self.format.name} of some columns"
        return self.format.name if self.blocks is None else f"{self.format.name}/{self.blocks.size}"

    def outlined(self) -> Term:
        """The same with one number for all values, zero points and factors of groups."""
        blocks = self.blocks and replace(self.blocks, factors=_outlined(self.blocks.factors))
        zero = None if self.zero_point is None else _outlined(self.zero_point)
        return replace(self, values=_outlined(self.values), blocks=blocks, zero_point=zero)

    def of_rows(self, at: slice) -> Term:
        """The part in some neighbouring rows of the tensor, as a term of those."""
        rows, here = None, at
        if self.rows is not None:
            here = slice(*torch.searchsorted(self.rows, torch.tensor([at.start, at.stop]).to(self.rows)).tolist())
            rows = self.rows[here] - at.start
        blocks = None if self.blocks is None else replace(self.blocks, factors=self.blocks.factors[here])
        zero = None if self.zero_point is None else self.zero_point[here]
        return Term(self.values[here], self.scale[here], self.format, rows, blocks, zero, self.columns)

    def numbers(self) -> Tensor:
        """What the scale of a row multiplies: values less zero point, times the factors of groups; float64."""
        centred = self.centred()
        return centred if self.blocks is None else centred * self.wide(self.blocks.factors).double()

    def centred(self) -> Tensor:
        """Values less zero point, float64."""
        values = self.values.double()
        return values if self.zero_point is None else values - self.wide(self.zero_point).double()

    def wide(self, groups: Tensor) -> Tensor:
        """What belongs to groups `(rows, groups)` by column, `(rows, in)`."""
        columns = self.values.shape[1]
        return groups.repeat_interleave(columns if self.blocks is None else self.blocks.size, 1)[:, :columns]


def _outlined(part: Tensor) -> Tensor:
    """Ones of a shape, which are one number in memory."""
    return part.new_ones(1, 1).expand(part.shape)
