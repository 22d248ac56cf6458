"""How large every row gets: by a tolerance, by number, or by bits, spent where they lower the error most."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptq.assignment import Budget, assign
from ptq.errors import OptionError, rounded_up
from ptq.ladder import Ladder
from ptq.scheme import FLOAT_BITS

Rungs = dict[str, Tensor]
"""The rung of its ladder that every row stands on, int64 `(out,)`, by site; a site without any stays in float."""


@dataclass(frozen=True)
class Speed:
    """Seconds of sites in integers, however wide, and in float, of which all together may take `most`."""

    integers: Mapping[str, float]
    floats: Mapping[str, float]
    most: float

    def least(self, sites: Iterable[str]) -> float:
        """Of the faster of both at each site."""
        return sum(min(self.integers.get(name, 0.0), self.floats.get(name, 0.0)) for name in sites)

    def budget(self, ladders: Mapping[str, Ladder]) -> Budget:
        """The seconds of each rung, and of float behind them."""
        seconds = {
            name: [self.integers.get(name, 0.0)] * len(ladder.rungs) + [self.floats.get(name, 0.0)]
            for name, ladder in ladders.items()
        }
        return Budget("seconds", seconds, self.most)


_Steps = NDArray[np.void]
"""Of `_STEP`, the best first."""

_STEP: Final = np.dtype([("merit", "f8"), ("row", "i4"), ("before", "i1"), ("after", "i1"), ("bits", "i8")])
"""From one rung to a higher one: what it gains per stored bit, the row among those of all sites, and what it costs."""


def all_on(ladders: Mapping[str, Ladder], rung: int) -> Rungs:
    """The same rung everywhere, or the top one of a site with fewer."""
    return {name: ladder.all_on(rung) for name, ladder in ladders.items()}


def by_tolerance(ladders: Mapping[str, Ladder], tolerance: float, *, per_layer: bool) -> Rungs:
    """The lowest rungs on which the output error is at most `tolerance` times the output power (algorithm 2)."""
    return {name: _enough(ladder, tolerance, per_layer=per_layer) for name, ladder in ladders.items()}


def _enough(ladder: Ladder, tolerance: float, *, per_layer: bool) -> Tensor:
    error, power = ladder.error, ladder.power
    if per_layer or ladder.whole:
        error, power = error.sum(1, keepdim=True).expand_as(error), power.sum().expand_as(power)
    above = error > tolerance * power
    return above.cumprod(0).sum(0).clamp_max(len(ladder.rungs) - 1)


def by_bits(
    ladders: Mapping[str, Ladder], effects: Mapping[str, float], bits: float, *, per_layer: bool
) -> tuple[Rungs, float]:
    """The best rungs with at most `bits` per weight on average, and what they come to.

    `effects` is the error at the network's output when a site alone is on its base rung; a row's part in it is its part
    in the output error of the site, and on other rungs it is as the ladder's errors are.

    Raises:
        OptionError: the lowest rung everywhere already takes more, or an error is not finite.

    """
    if per_layer or all(ladder.whole for ladder in ladders.values()):
        return by_layer(ladders, layer_costs(ladders, effects), bits)
    shares = {name: _share(ladder, effects[name]) for name, ladder in ladders.items()}
    _check_finite(shares)
    rungs = all_on(ladders, 0)
    least = spent = _stored(ladders, rungs)
    weights = _count(ladders)
    budget = _budget(bits, weights, least)
    steps = _steps(ladders, shares)
    spare = budget - least
    while len(steps) and spare > 0:
        rungs = _climbed(ladders, steps, spare)
        spent = _stored(ladders, rungs)
        if spent <= budget:
            break
        spare -= spent - budget
        rungs, spent = all_on(ladders, 0), least
    return rungs, spent / weights


def by_layer(
    ladders: Mapping[str, Ladder],
    costs: Mapping[str, NDArray[np.float64]],
    bits: float | None,
    speed: Speed | None = None,
) -> tuple[Rungs, float]:
    """One rung for each layer, the optimum, with at most `bits` per weight on average, and what they come to.

    `costs (rungs,)` are what add up to the error of the network, or to whatever is to be least. With a bound on the
    time, the last one is that of float, and a layer without a rung is in float.

    Raises:
        OptionError: the smallest rung everywhere already takes more, or a cost is not finite.

    """
    _check_finite(costs)
    weights = _count(ladders)
    stored = {name: _sizes(ladder) for name, ladder in ladders.items()}
    if speed is not None:
        for name, (rows, columns) in ((name, ladder.shape) for name, ladder in ladders.items()):
            stored[name].append(FLOAT_BITS * rows * columns)
    least = sum(map(min, stored.values()))
    budget = Budget("bits", stored, _budget(math.inf if bits is None else bits, weights, least))
    budgets = [each for each in (budget if bits is not None else None, speed and speed.budget(ladders)) if each]
    chosen = assign({name: cost.tolist() for name, cost in costs.items()}, budgets)
    rungs = {name: ladders[name].all_on(k) for name, k in chosen.items() if k < len(ladders[name].rungs)}
    return rungs, budget.of(chosen) / weights


def layer_costs(ladders: Mapping[str, Ladder], effects: Mapping[str, float]) -> dict[str, NDArray[np.float64]]:
    """What each layer does to the output of the network on each rung, `(rungs,)`; see `by_bits`."""
    return {name: _share(ladder, effects[name]).sum(1) for name, ladder in ladders.items()}


def widths(ladder: Ladder) -> NDArray[np.float64]:
    """Bits of a number on each rung, scales left out; `(rungs,)`."""
    return np.array([ladder.row_bits(rung) / ladder.shape[1] for rung in range(len(ladder.rungs))])


def _sizes(ladder: Ladder) -> list[int]:
    """What the weight takes on each rung, in bits."""
    return [ladder.pick(ladder.all_on(rung)).storage_bits for rung in range(len(ladder.rungs))]


def _check_finite(costs: Mapping[str, NDArray[np.float64]]) -> None:
    for name, cost in costs.items():
        if not np.isfinite(cost).all():
            raise OptionError(
                f"the errors of {name} are beyond float32, so that no bits can be given by them; scale its weights, or "
                f"give --keep-float for it"
            )


def _budget(bits: float, weights: int, least: int) -> float:
    """What so many bits a weight come to; rounding makes them no less than `least`, where that is what they are."""
    if least / weights > bits:
        raise OptionError(
            f"--bits {bits:.10g} is below the {rounded_up(least / weights, 3)} bits per weight that the smallest "
            f"choice takes, scales included; give at least as much, or a narrower format"
        )
    return max(bits * weights, least)


def _climbed(ladders: Mapping[str, Ladder], steps: _Steps, spare: float) -> Rungs:
    """The best steps, in order, as far as the spare bits go; what is too large is passed over, with what follows it."""
    places = _places(ladders)
    count = max(place.stop for place in places.values())
    reached, end = np.zeros(count, np.int8), np.full(count, np.iinfo(np.int8).max, np.int8)
    while len(steps):
        large = steps[steps["bits"] > spare]
        np.minimum.at(end, large["row"], large["before"])
        steps = steps[steps["before"] < end[steps["row"]]]
        total = steps["bits"].cumsum()
        fitting = int(np.searchsorted(total, spare, side="right"))
        np.maximum.at(reached, steps["row"][:fitting], steps["after"][:fitting])
        spare -= int(total[fitting - 1]) if fitting else 0
        steps = steps[fitting:]
    return {
        name: torch.from_numpy(reached[places[name]]).long().expand(ladder.shape[0]) for name, ladder in ladders.items()
    }


def lowest(ladders: Mapping[str, Ladder]) -> float:
    """The bits per weight of the lowest rung everywhere."""
    return _stored(ladders, all_on(ladders, 0)) / _count(ladders)


def _count(ladders: Mapping[str, Ladder]) -> int:
    return max(sum(rows * columns for rows, columns in (ladder.shape for ladder in ladders.values())), 1)


def _stored(ladders: Mapping[str, Ladder], rungs: Rungs) -> int:
    return sum(ladder.pick(rungs[name]).storage_bits for name, ladder in ladders.items())


def _places(ladders: Mapping[str, Ladder]) -> dict[str, slice]:
    """Where the rows of a site are among those of all, in the order of names; all rows of a whole one are one."""
    names = sorted(ladders)
    counts = (1 if ladders[name].whole else ladders[name].shape[0] for name in names)
    ends = itertools.pairwise(itertools.accumulate(counts, initial=0))
    return {name: slice(*each) for name, each in zip(names, ends, strict=True)}


def _steps(ladders: Mapping[str, Ladder], shares: Mapping[str, NDArray[np.float64]]) -> _Steps:
    """All steps worth taking."""
    places = _places(ladders).items()
    parts = (part for name, at in places for part in _hull(ladders[name], shares[name], at.start))
    steps = np.concatenate([np.empty(0, _STEP), *parts])
    best_first: _Steps = steps[np.lexsort((steps["before"], steps["row"], -steps["merit"]))]
    return best_first


def _hull(ladder: Ladder, share: NDArray[np.float64], first: int) -> Iterator[_Steps]:
    """The steps of a site along the convex hull of error over bits, so that merits fall; its rows begin at `first`."""
    left = share.sum(1, keepdims=True) if ladder.whole else share
    bits = np.array([ladder.row_bits(rung) for rung in range(len(left))]) * (ladder.shape[0] // left.shape[1])
    reached, least = np.zeros(left.shape[1], np.int8), np.full(left.shape[1], np.inf)
    for before in range(len(left) - 1):
        rows = np.flatnonzero(reached == before)
        gain, cost = left[before, rows] - left[before + 1 :, rows], bits[before + 1 :] - bits[before]
        with np.errstate(divide="ignore"):  # what takes no more bits is free
            merits = np.divide(gain, cost[:, None], out=np.zeros_like(gain), where=gain > 0)
        best = len(cost) - 1 - merits[::-1].argmax(0)  # of equal ones the highest
        merit = merits[best, np.arange(len(rows))]
        taken = (merit > 0) & (merit <= least[rows])  # rounding may have put a step before the one that it follows
        rows, best = rows[taken], best[taken]
        reached[rows], least[rows] = before + 1 + best, merit[taken]
        steps = np.empty(len(rows), _STEP)
        steps["merit"], steps["bits"], steps["row"] = merit[taken], cost[best], first + rows
        steps["before"], steps["after"] = before, reached[rows]
        yield steps


def _share(ladder: Ladder, effect: float) -> NDArray[np.float64]:
    """What each row does to the output on each rung, `(rungs, out)`, from what all do on the base rung.

    An exact base does nothing, whatever smaller rungs do; then it is what they do to the site's own output.
    """
    error = ladder.error.double().numpy()
    whole = error[ladder.base].sum()
    if whole == 0:
        whole, effect = float(ladder.power.double().sum()) or 1.0, 1.0
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused where it is used
        part: NDArray[np.float64] = error / whole * effect
    return part
