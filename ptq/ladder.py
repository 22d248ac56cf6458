"""One weight in every size it can have: what a budget chooses from, row by row or as a whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import Tensor

from ptq.qtensor import Blocks, Kind, QTensor, Term

_Part = TypeVar("_Part", Blocks, Tensor)


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

    def outlined(self) -> Ladder:
        """The same without its numbers: all that is asked for its size and its errors, in next to no memory."""
        return replace(self, rungs=tuple(tuple(term.outlined() for term in rung) for rung in self.rungs))

    def all_on(self, rung: int) -> Tensor:
        """Every row on one rung, or on the top one where there are fewer; int64 `(out,)`."""
        return torch.full((self.shape[0],), min(rung, len(self.rungs) - 1))

    def row_bits(self, rung: int) -> int:
        """What the values of a row on a rung take, the factors of groups included; the rest is extra."""
        return QTensor(self.rungs[rung], self.shape).value_bits // self.shape[0]

    def pick(self, rung: Tensor) -> QTensor:
        """The weight with each row on its rung, int64 `(out,)`."""
        if self.whole:
            return QTensor(self.rungs[int(rung[0])], self.shape)
        terms = []
        for k in range(max(len(points) for points in self.rungs)):
            kinds = dict.fromkeys(points[k].kind for points in self.rungs if k < len(points))
            terms += [self._point(k, kind, rung) for kind in kinds]
        return QTensor(tuple(term for term in terms if len(term.values)), self.shape)

    def _point(self, k: int, kind: Kind, rung: Tensor) -> Term:
        """Point `k` of the rows where it is of this kind."""
        sources = {n: p[k] for n, p in enumerate(self.rungs) if k < len(p) and p[k].kind == kind}
        rows = torch.isin(rung, torch.tensor(list(sources))).nonzero()[:, 0]
        first = next(iter(sources.values()))
        if len(sources) == 1 and len(rows) == len(rung):
            return first

        def chosen(part: Callable[[Term], Tensor]) -> Tensor:
            if not any(part(first).stride()):  # an outline, whose rows are all alike
                return part(first)[:1].expand(len(rows), -1)
            found = torch.empty_like(part(first)[rows])
            for n, term in sources.items():
                here = rung[rows] == n
                found[here] = part(term)[rows[here]]
            return found

        blocks, zero = first.blocks, None
        if blocks is not None:
            blocks = replace(blocks, factors=chosen(lambda term: _given(term.blocks).factors))
        if first.zero_point is not None:
            zero = chosen(lambda term: _given(term.zero_point))
        values, scale = chosen(lambda term: term.values), chosen(lambda term: term.scale)
        return Term(values, scale, first.format, None if len(rows) == len(rung) else rows, blocks, zero)


def _given(part: _Part | None) -> _Part:
    """What all terms of a kind have if one of them has it."""
    if part is None:
        raise AssertionError
    return part
