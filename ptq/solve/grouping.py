"""Which weights of a row share a scale."""

from __future__ import annotations

from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Grouping:
    """Rows of so many columns in groups of `size`, the last of which may be shorter."""

    columns: int
    size: int

    @classmethod
    def of(cls, columns: int, group: int | None) -> Grouping:
        """Groups of that size, or whole rows."""
        return cls(columns, min(group or columns, columns))

    @property
    def count(self) -> int:
        """How many groups a row has."""
        return -(-self.columns // self.size)

    @property
    def is_even(self) -> bool:
        """Whether the last group is as long as the others."""
        return self.columns % self.size == 0

    def split(self, rows: Tensor) -> Tensor:
        """Rows `(…, in)` as groups `(…, groups, size)`, zeros where the last one is shorter."""
        padded = rows if self.is_even else F.pad(rows, (0, self.count * self.size - self.columns))
        return padded.reshape(*rows.shape[:-1], self.count, self.size)

    def wide(self, groups: Tensor, order: Tensor | None = None) -> Tensor:
        """What belongs to groups `(g, rows, groups)` by column: `(g, rows, in)`, or `(g, rows, 1)` for whole rows.

        `order (g, in)` is that of the columns, their own if left out.
        """
        if self.count == 1:
            return groups
        if order is None:
            return groups.repeat_interleave(self.size, -1)[..., : self.columns]
        return groups.gather(-1, self.index(order, groups.shape[-2]))

    def index(self, order: Tensor, rows: int) -> Tensor:
        """The group of each column in an order `(g, in)`, for so many rows; `(g, rows, in)`."""
        return (order // self.size)[:, None, :].expand(-1, rows, -1)

    def sums(self, columns: Tensor, order: Tensor) -> Tensor:
        """The sums of columns `(g, rows, in)`, which are in an order, over groups; `(g, rows, groups)`."""
        if self.count == 1:
            return columns.sum(-1, keepdim=True)
        total = columns.new_zeros((*columns.shape[:-1], self.count))
        return total.scatter_add_(-1, self.index(order, columns.shape[-2]), columns)

    def within(self, moment: Tensor, order: Tensor) -> Tensor:
        """A moment `(g, in, in)` in an order, with zeros between columns of different groups."""
        if self.count == 1:
            return moment
        group = order // self.size
        return moment * (group[:, :, None] == group[:, None, :])
