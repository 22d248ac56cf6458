"""One weight at every number of points: what a budget chooses from, row by row."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ptq.formats import Format
from ptq.qtensor import QTensor, Term


@dataclass(frozen=True, eq=False)
class Ladder:
    """Rungs `n = 1, 2, …` of a weight; a row can stand on any of them, whatever the others do.

    `rungs[n - 1][k]` is point `k` of all rows when they have `n`. `error (n, out)` is the power of the output error
    and `power (out,)` that of the output, both in the metric that the method minimised.
    """

    rungs: tuple[tuple[Term, ...], ...]
    error: Tensor
    power: Tensor

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the weight."""
        rows, columns = self.rungs[0][0].values.shape
        return int(rows), int(columns)

    @property
    def format(self) -> Format:
        """The format of the points."""
        return self.rungs[0][0].format

    @property
    def most_points(self) -> int:
        """The top rung."""
        return len(self.rungs)

    def row_bits(self, points: int) -> int:
        """What a row with so many points costs, when not all rows have them."""
        everywhere = torch.full((self.shape[0],), points)
        everywhere[:-1] = 1
        return self.pick(everywhere).storage_bits - self.pick(torch.ones_like(everywhere)).storage_bits + self.base_bits

    @property
    def base_bits(self) -> int:
        """What a row with one point costs."""
        return self.pick(torch.ones(self.shape[0], dtype=torch.int64)).storage_bits // self.shape[0]

    def pick(self, points: Tensor) -> QTensor:
        """The weight with `points (out,)`, int64."""
        terms = []
        for k in range(int(points.max())):
            rows = (points > k).nonzero()[:, 0]
            values, scale = self._point(k, points, rows)
            covered = None if len(rows) == len(points) else rows
            terms.append(Term(values, scale, self.format, covered))
        return QTensor(tuple(terms), self.shape)

    def _point(self, k: int, points: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
        first = self.rungs[-1][k]
        values, scale = torch.empty_like(first.values[rows]), torch.empty_like(first.scale[rows])
        for n in range(k + 1, self.most_points + 1):
            here = points[rows] == n
            values[here], scale[here] = self.rungs[n - 1][k].values[rows[here]], self.rungs[n - 1][k].scale[rows[here]]
        return values, scale
