"""Quantize the weights of a plan: every site at every number of points, then the number for each row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from calibration.dataset import Dataset
from calibration.observers import Moment
from ptq import allocation
from ptq.allocation import Rungs
from ptq.methods.mixed import OMPQ
from ptq.model.graph import Model
from ptq.model.save import digest
from ptq.model.sites import Site
from ptq.orthogonality import BETA, likeness, orthogonality, output_grams, thetas, worths
from ptq.pipeline.calibrate import BATCH
from ptq.pipeline.solved import Given, SiteWeights, Solved, arrays_of, shift_of, solve
from ptq.pipeline.stages import Stages
from ptq.qtensor import QTensor
from ptq.scheme import FLOAT_BITS
from ptq.sensitivity import output_effects
from ptq.solve import Curvature, rounded_anew

if TYPE_CHECKING:
    from ptq.pipeline.clock import Clock

_OMPQ_UNIT = 8


def quantize_weights(
    given: Given, solved: Mapping[str, Solved], measured: Dataset | None, stages: Stages, clock: Clock | None = None
) -> dict[str, SiteWeights]:
    """The weights of all sites that were solved and that the clock, which bounds the time of all, leaves in.

    What each does to the output, where the plan wants it, is found on the samples `measured`.
    """
    return _picked(solved, _allocate(given, solved, measured, stages, clock))


def rounded_weights(given: Given, sites: Sequence[Site]) -> dict[str, SiteWeights]:
    """The weights of some sites, none of which has to wait for others to know its size."""
    solved = solve(given, sites)
    return _picked(solved, _allocate(given, solved, None, Stages(), None))


def _picked(solved: Mapping[str, Solved], rungs: Rungs) -> dict[str, SiteWeights]:
    return {name: found.pick(rungs[name]) for name, found in solved.items() if name in rungs}


def _allocate(
    given: Given, solved: Mapping[str, Solved], measured: Dataset | None, stages: Stages, clock: Clock | None
) -> Rungs:
    recipe = given.plan.recipe
    ladders = {name: found.ladder for name, found in solved.items()}
    points = {name: given.plan.sites[name].said.points for name in ladders}
    fixed = {name for name, ladder in ladders.items() if len(ladder.rungs) == 1 or points[name] is not None}
    free = {name: ladder for name, ladder in ladders.items() if name not in fixed}
    rungs = {name: ladders[name].all_on((points[name] or 1) - 1) for name in fixed}
    per_layer = recipe.per == "layer"
    if not free:
        return rungs
    if recipe.tolerance is not None:
        return rungs | allocation.by_tolerance(free, recipe.tolerance, per_layer=per_layer)
    bits = given.plan.budget
    if recipe.bits is None and bits is not None:  # of small layers, scales alone may take more than what is usual
        bits = max(bits, allocation.lowest(free))
    if recipe.worth == OMPQ and measured is not None:
        worth = _worths(given, [solved[name].site for name in free], measured, stages)
        costs = {name: -worth[name] * allocation.widths(ladder) / _OMPQ_UNIT for name, ladder in free.items()}
        exact = {name: -worth[name] * FLOAT_BITS / _OMPQ_UNIT for name in free}
    else:
        effects = _effects(given, {name: solved[name] for name in free}, measured, stages)
        if clock is None and bits is not None:
            return rungs | allocation.by_bits(free, effects, bits, per_layer=per_layer)[0]
        costs, exact = allocation.layer_costs(free, effects), dict.fromkeys(free, 0.0)
    if clock is None:
        return rungs | allocation.by_layer(free, costs, bits)[0]
    costs = {name: np.append(cost, exact[name]) for name, cost in costs.items()}
    return clock.within(
        lambda found: _picked(solved, rungs | found),
        {name: ladder.all_on(ladder.base) for name, ladder in free.items()},
        lambda speed: rungs | allocation.by_layer(free, costs, bits, speed)[0],
    )


def _worths(given: Given, sites: Sequence[Site], measured: Dataset, stages: Stages) -> dict[str, float]:
    """What eight bits are worth at each site, by OMPQ."""
    beta = given.plan.recipe.beta
    with stages.stage("allocate", len(sites)) as advance:
        grams = output_grams(given.model, sites, [batch.feeds for batch in measured.batches(BATCH)], advance)
    gamma = likeness(orthogonality(grams))
    found = worths(thetas(gamma - gamma.min(), BETA if beta is None else beta))
    return dict(zip([site.name for site in sites], found.tolist(), strict=True))


def _effects(given: Given, solved: Mapping[str, Solved], measured: Dataset | None, stages: Stages) -> dict[str, float]:
    """What each site on its base rung does to the output; without data, to its own output.

    The site is rounded anew for it, on the scales that it has, without the samples it is measured on, where there are
    enough of them.
    """
    model, statistics = given.model, given.statistics
    if statistics is None or measured is None:
        ladders = {name: found.ladder for name, found in solved.items()}
        totals = {name: (each.error[each.base].sum(), each.power.sum()) for name, each in ladders.items()}
        return {name: float(error / power) if power > 0 else 0.0 for name, (error, power) in totals.items()}

    def change(name: str) -> dict[str, np.ndarray]:
        return _change(model, solved[name], statistics.apart.get(name))

    def made() -> dict[str, float]:
        with stages.stage("allocate", len(solved)) as advance:
            changes = ((name, change(name)) for name in solved)
            return output_effects(model, changes, [batch.feeds for batch in measured.batches(BATCH)], advance)

    def key() -> tuple[object, ...]:
        return (
            digest(model),
            measured.fingerprint(),
            sorted(statistics.apart),
            [each.sizes.path.name for each in solved.values()],
        )

    return given.store.get("effects", key, made)


def _change(model: Model, solved: Solved, apart: Moment | None) -> dict[str, np.ndarray]:
    """The initializers of the model when one site is on its base rung, rounded for the moment where there is one."""
    site, ladder = solved.site, solved.full()
    term, *more = ladder.rungs[ladder.base]
    if apart is None or more:
        weight, mean = QTensor((term, *more), ladder.shape).dequantize(), solved.mean
    else:
        moment = apart.gram if solved.mean is None else apart.centred()
        curvature = Curvature.of(moment, apart.count, term.format.span)
        weight = rounded_anew(solved.matrix().reshape(site.groups, -1, site.columns), term, curvature).flatten(0, 1)
        mean = None if solved.mean is None else apart.mean
    return arrays_of(model, site, weight, None if mean is None else shift_of(solved.matrix() - weight, mean))
