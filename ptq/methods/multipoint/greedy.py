"""The greedy selection of the multipoint paper: each point approximates what the ones before it left over.

arXiv:2002.09049, algorithm 1. A step looks for `scale * integers`, integers in `-limit..limit`, nearest to a row `r`.
For a given scale the best integers are `r / scale` rounded, so the scale alone is searched. The paper's `a` is
`scale * limit`, its `v` is `integers / limit`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Final, NamedTuple

import torch
from torch import Tensor

from ptq import registry

ETA: Final = 2.0**-10
"""The widest step of the grid search; the paper leaves it to the user."""

_MOST_ELEMENTS = 1 << 21
_MOST_CANDIDATES = 1 << 16


class Point(NamedTuple):
    """One point of every row: scales float64 `(rows,)`, 0 where nothing is left over, and integers `(rows, in)`."""

    scale: Tensor
    integers: Tensor

    def dequantized(self) -> Tensor:
        """What the point adds to the rows, float64 `(rows, in)`."""
        return self.scale[:, None] * self.integers


def greedy_rows(
    weight: Tensor,
    limit: int,
    points: int,
    *,
    search: str = "exact",
    eta: float = ETA,
    stored: torch.dtype = torch.float64,
) -> list[Point]:
    """So many points for each row of a weight `(rows, in)`; integers are int8.

    Scales are snapped to the dtype `stored`, so that the points after them make up for it.

    Raises:
        OptionError: there is no such search.

    """
    searches: dict[str, Callable[[Tensor, int], Point]] = {"exact": exact_point, "grid": partial(grid_point, eta=eta)}
    find = registry.get("search", search, searches)
    together = max(1, _MOST_ELEMENTS // max(weight.shape[1] * limit, 1))
    parts: list[list[Point]] = [[] for _ in range(points)]
    for rows in torch.split(weight, together):
        residual = rows.double()
        for part in parts:
            scale, integers = find(residual, limit)
            point = Point(scale.to(stored).double(), integers.to(torch.int8))
            residual = residual - point.dequantized()
            part.append(point)
    return [Point(torch.cat([p.scale for p in part]), torch.cat([p.integers for p in part])) for part in parts]


def residuals(weight: Tensor, points: Sequence[Point]) -> Iterator[Tensor]:
    """What is left of a weight `(rows, in)` after one point, two points, ...; float64."""
    left = weight.double()
    for point in points:
        left = left - point.dequantized()
        yield left


def exact_point(rows: Tensor, limit: int) -> Point:
    """The best point of all for rows float64 `(rows, in)`.

    Every rounding that some scale gives is tried with the scale that fits it best. Elements that reach their
    breakpoints together are passed one by one on the way: such a rounding is a tie, and never better than all passed.
    """
    path = _Path.of(rows, limit)
    gain = path.inner[:, 1:].square() / path.norm[:, 1:]
    chosen = path.breakpoints.gather(1, gain.argmax(1, keepdim=True))
    levels = torch.arange(limit, dtype=rows.dtype, device=rows.device) + 0.5
    reached = (rows.abs()[..., None] / levels >= chosen[..., None]).sum(-1)
    integers = reached * rows.sign()
    norm = integers.square().sum(-1)
    return Point(torch.where(norm > 0, (rows * integers).sum(-1) / norm.clamp_min(1), 0.0), integers)


def grid_point(rows: Tensor, limit: int, eta: float = ETA) -> Point:
    """The paper's grid search for rows float64 `(rows, in)`.

    The step of `a` is the smallest gap between elements of the row over `limit`, at most `eta`. Elements that are
    equal have no gap, and a grid is no finer than 65536 steps: the paper's can be endless.
    """
    largest = rows.abs().amax(-1)
    gaps = rows.sort(dim=-1).values.diff(dim=-1)
    gap = torch.cat([torch.where(gaps > 0, gaps, torch.inf), largest[:, None]], dim=1).amin(-1)
    finest = 2 * limit * largest / _MOST_CANDIDATES
    return even_grid_point(rows, limit, (gap / limit).clamp_max(eta).maximum(finest))


def even_grid_point(rows: Tensor, limit: int, step: Tensor) -> Point:
    """The first best `a` among the multiples of a step `(rows,)`, up to where every element rounds to zero."""
    path = _Path.of(rows, limit)
    top = 2 * limit * rows.abs().amax(-1)
    count = int((top / step).nan_to_num(0.0).amax())
    least, best = torch.zeros_like(top), torch.zeros_like(top)
    block = max(1, _MOST_ELEMENTS // len(rows))
    for first in range(1, count + 1, block):
        factors = torch.arange(first, min(first + block, count + 1), dtype=rows.dtype, device=rows.device)
        a = factors * step[:, None]
        errors = torch.where(a <= top[:, None], path.change(a / limit), torch.inf)
        error, index = errors.min(dim=1)
        best = torch.where(error < least, a.gather(1, index[:, None])[:, 0] / limit, best)
        least = torch.minimum(error, least)
    integers = (rows / torch.where(best > 0, best, torch.inf)[:, None]).round().clamp(-limit, limit)
    return Point(best, integers)


class _Path(NamedTuple):
    """How the rounded row grows as the scale falls.

    At a breakpoint `|r_j| / (k - 1/2)` element `j` goes from `k - 1` to `k`. Breakpoints `(rows, in * limit)` descend;
    after the first `i` of them `<r, integers>` is `inner[:, i]` and `<integers, integers>` is `norm[:, i]`.
    """

    breakpoints: Tensor
    inner: Tensor
    norm: Tensor

    @classmethod
    def of(cls, rows: Tensor, limit: int) -> _Path:
        magnitude = rows.abs()
        levels = torch.arange(limit, dtype=rows.dtype, device=rows.device) + 0.5
        breakpoints, order = (magnitude[..., None] / levels).flatten(1).sort(dim=-1, descending=True)
        inner = magnitude.gather(1, order // limit).cumsum(-1)
        norm = (2 * (order % limit) + 1).to(rows.dtype).cumsum(-1)
        return cls(breakpoints, *(torch.nn.functional.pad(total, (1, 0)) for total in (inner, norm)))

    def change(self, scale: Tensor) -> Tensor:
        """By how much rounding with scales `(rows, candidates)` changes the squared length of the residual."""
        passed = torch.searchsorted(-self.breakpoints, -scale, right=True)
        return self.norm.gather(1, passed) * scale.square() - 2 * scale * self.inner.gather(1, passed)
