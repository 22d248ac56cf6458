"""Which rows get more points when nothing is known of them: what adaptive choice is compared with.

Each of these stands in for `allocation.by_bits` and spends the same bits.
"""

from __future__ import annotations

import unittest.mock
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain

import numpy as np
import torch

from ptq import allocation
from ptq.allocation import Rungs
from ptq.ladder import Ladder

Choice = Callable[..., tuple[Rungs, float]]

_ADAPTIVE: Choice = allocation.by_bits


@contextmanager
def chosen_by(choice: Choice) -> Iterator[None]:
    """Let the pipeline spend bits in this way: random choice is no option of a product."""
    with unittest.mock.patch.object(allocation, "by_bits", choice):
        yield


def within_layers(seed: int) -> Choice:
    """As many rows of each size in each layer as adaptive choice gives it, but other rows."""

    def choose(
        ladders: Mapping[str, Ladder], effects: Mapping[str, float], bits: float, *, per_layer: bool
    ) -> tuple[Rungs, float]:
        rungs, spent = _ADAPTIVE(ladders, effects, bits, per_layer=per_layer)
        rng = torch.Generator().manual_seed(seed)
        return {name: each[torch.randperm(len(each), generator=rng)] for name, each in rungs.items()}, spent

    return choose


def everywhere(seed: int) -> Choice:
    """Rows of all layers in the order of a permutation climb one rung, then in another order the next one."""

    def choose(
        ladders: Mapping[str, Ladder],
        effects: Mapping[str, float],  # noqa: ARG001  (nothing is made of them)
        bits: float,
        *,
        per_layer: bool,  # noqa: ARG001  (rows are drawn one by one)
    ) -> tuple[Rungs, float]:
        weights = sum(rows * columns for rows, columns in (ladder.shape for ladder in ladders.values()))
        budget = bits * weights
        spare = budget - _stored(ladders, allocation.all_on(ladders, 0))
        while True:
            rungs = _climbed(ladders, spare, np.random.default_rng(seed))
            spent = _stored(ladders, rungs)
            if spent <= budget:
                return rungs, spent / weights
            spare -= spent - budget  # what says which rows have points takes bits too

    return choose


def _climbed(ladders: Mapping[str, Ladder], spare: float, rng: np.random.Generator) -> Rungs:
    """Rows on the rungs that so many bits above the lowest ones pay for; one that is too dear is passed over."""
    rungs = allocation.all_on(ladders, 0)
    for rung in range(1, max(len(ladder.rungs) for ladder in ladders.values())):
        able = {name: ladder for name, ladder in ladders.items() if rung < len(ladder.rungs)}
        costs = {name: ladder.row_bits(rung) - ladder.row_bits(rung - 1) for name, ladder in able.items()}
        rows = list(chain.from_iterable(((name, row) for row in range(ladders[name].shape[0])) for name in able))
        for place in rng.permutation(len(rows)):
            name, row = rows[place]
            if costs[name] <= spare and int(rungs[name][row]) == rung - 1:
                rungs[name][row] = rung
                spare -= costs[name]
    return rungs


def _stored(ladders: Mapping[str, Ladder], rungs: Rungs) -> int:
    return sum(ladder.pick(rungs[name]).storage_bits for name, ladder in ladders.items())
