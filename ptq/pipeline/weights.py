"""Quantize the weights of a plan: every site at every number of points, then the number for each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ptq import allocation
from ptq.allocation import Rungs
from ptq.methods.mixed import OMPQ
from ptq.model.sites import Site
from ptq.pipeline.importance import free_sites
from ptq.pipeline.solved import Given, SiteWeights, Solved, solve
from ptq.recipe import Plan
from ptq.scheme import FLOAT_BITS

if TYPE_CHECKING:
    from ptq.pipeline.clock import Clock

_OMPQ_UNIT = 8


def quantize_weights(
    given: Given, solved: Mapping[str, Solved], importance: Mapping[str, float], clock: Clock | None = None
) -> dict[str, SiteWeights]:
    """The weights of all sites that were solved and that the clock, which bounds the time of all, leaves in.

    What is shared out goes by the importance of the sites that have a part in it.
    """
    return _picked(solved, _allocate(given.plan, solved, importance, clock))


def rounded_weights(given: Given, sites: Sequence[Site]) -> dict[str, SiteWeights]:
    """The weights of some sites, none of which has to wait for others to know its size."""
    return quantize_weights(given, solve(given, sites), {})


def _picked(solved: Mapping[str, Solved], rungs: Rungs) -> dict[str, SiteWeights]:
    return {name: found.pick(rungs[name]) for name, found in solved.items() if name in rungs}


def _allocate(plan: Plan, solved: Mapping[str, Solved], importance: Mapping[str, float], clock: Clock | None) -> Rungs:
    recipe, free = plan.recipe, free_sites(plan, solved)
    fixed = {name: found.ladder for name, found in solved.items() if name not in free}
    rungs = {name: ladder.all_on((plan.sites[name].said.points or 1) - 1) for name, ladder in fixed.items()}
    per_layer = recipe.per == "layer"
    if not free:
        return rungs
    if recipe.tolerance is not None:
        return rungs | allocation.by_tolerance(free, recipe.tolerance, per_layer=per_layer)
    bits = plan.budget
    if recipe.bits is None and bits is not None:  # of small layers, scales alone may take more than what is usual
        bits = max(bits, allocation.lowest(free))
    if recipe.worth == OMPQ:
        worth = importance
        costs = {name: -worth[name] * allocation.widths(ladder) / _OMPQ_UNIT for name, ladder in free.items()}
        exact = {name: -worth[name] * FLOAT_BITS / _OMPQ_UNIT for name in free}
    else:
        if clock is None and bits is not None:
            return rungs | allocation.by_bits(free, importance, bits, per_layer=per_layer)[0]
        costs, exact = allocation.layer_costs(free, importance), dict.fromkeys(free, 0.0)
    if clock is None:
        return rungs | allocation.by_layer(free, costs, bits)[0]
    costs = {name: np.append(cost, exact[name]) for name, cost in costs.items()}
    return clock.within(
        lambda found: _picked(solved, rungs | found),
        {name: ladder.all_on(ladder.base) for name, ladder in free.items()},
        lambda speed: rungs | allocation.by_layer(free, costs, bits, speed)[0],
    )
