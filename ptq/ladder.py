"""One weight in every size it can have: what a budget chooses from, row by row or as a whole."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ptq.formats import Format
from ptq.qtensor import QTensor, Term


@dataclass(frozen=True, eq=False)
class Ladder:
    """Sizes of a weight, the smallest first; a row can stand on any of these rungs, whatever the others do.

    Of one that is `whole`, all rows stand on the same rung.
    `rungs[n][k]` is point `k` of all rows when they stand on rung `n`. `error (rungs, out)` is the power of the output
    error and `power (out,)` that of the output, both in the metric that the method minimised. `base` is the rung of the
    format that was asked for: what a site does to the output of the network is measured there.
    """

    rungs: tuple[tuple[Term, ...], ...]
    error: Tensor
    power: Tensor
    whole: bool = False
    base: int = 0

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the weight."""
        rows, columns = self.rungs[0][0].values.shape
        return int(rows), int(columns)

    def all_on(self, rung: int) -> Tensor:
        """Every row on one rung, or on the top one where there are fewer; int64 `(out,)`."""
        return torch.full((self.shape[0],), min(rung, len(self.rungs) - 1))

    def row_bits(self, rung: int) -> int:
        """What the values of a row on a rung take; scales, and which rows have more points, are extra."""
        return sum(term.format.bits for term in self.rungs[rung]) * self.shape[1]

    def pick(self, rung: Tensor) -> QTensor:
        """The weight with each row on its rung, int64 `(out,)`."""
        terms = []
        for k in range(max(len(points) for points in self.rungs)):
            formats = dict.fromkeys(points[k].format for points in self.rungs if k < len(points))
            terms += [self._point(k, fmt, rung) for fmt in formats]
        return QTensor(tuple(term for term in terms if len(term.values)), self.shape)

    def _point(self, k: int, fmt: Format, rung: Tensor) -> Term:
        """Point `k` of the rows that have it in this format; only a term of all rows may have blocks."""
        sources = {n: p[k] for n, p in enumerate(self.rungs) if k < len(p) and p[k].format == fmt}
        rows = torch.isin(rung, torch.tensor(list(sources))).nonzero()[:, 0]
        first = next(iter(sources.values()))
        if len(sources) == 1 and len(rows) == len(rung):
            return first
        values, scale = torch.empty_like(first.values[rows]), torch.empty_like(first.scale[rows])
        for n, term in sources.items():
            here = rung[rows] == n
            values[here], scale[here] = term.values[rows[here]], term.scale[rows[here]]
        return Term(values, scale, fmt, None if len(rows) == len(rung) else rows)
