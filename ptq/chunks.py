"""Some rows at a time: what is done number by number then stays in a processor's cache, and takes little memory."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Final, NamedTuple, TypeVar

import torch
from torch import Tensor

_MOST_ELEMENTS: Final = 1 << 18
"""Of a chunk, for each thread: what caches hold, and so many that what a call of torch takes by itself is little."""

_OF_GPUS: Final = 256
"""So many times as much at once on a GPU, where each call takes as long for few numbers as for many."""

_LEAST_ROWS: Final = 64
"""So many columns torch sums at once where rows lie side by side in memory: whole ones have the sums of all rows."""

Rows = TypeVar("Rows", bound=NamedTuple)


def chunks(rows: int, columns: int, times: int | None = None) -> list[slice]:
    """Rows of so many numbers in chunks, the last of which takes what is left."""
    most = _MOST_ELEMENTS * (times or torch.get_num_threads()) // max(columns, 1)
    size = max(most // _LEAST_ROWS, 1) * _LEAST_ROWS
    starts = range(0, max(rows - size, 0) + 1, size)
    return [slice(*ends) for ends in pairwise([*starts, rows])]


def weight_chunks(weight: Tensor) -> list[slice]:
    """The rows of `(groups, rows, …)` in chunks."""
    rows = weight.shape[1]
    return chunks(rows, weight.numel() // max(rows, 1), None if weight.device.type == "cpu" else _OF_GPUS)


def in_chunks(weight: Tensor, made: Callable[[slice], Rows], *, whole: bool = False) -> Rows:
    """A named tuple of what is made of all rows, `(groups, rows, …)`, by chunks or, where it is `whole`, at once."""
    first, *others = [slice(None)] if whole else weight_chunks(weight)
    found = made(first)
    if not others:
        return found
    every = found._make(None if part is None else _empty(part, weight.shape[1]) for part in found)
    for at in (first, *others):
        for place, part in zip(every, found if at is first else made(at), strict=True):
            if place is not None:
                place[:, at] = part
    return every


def _empty(part: Tensor, rows: int) -> Tensor:
    """For so many rows: what chunks leave behind, one by one, would be scattered over memory."""
    return part.new_empty((part.shape[0], rows, *part.shape[2:]))
