"""What bits for all layers are shared out by: how much each layer matters, found by all ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from calibration.dataset import Dataset
from ptq.ladder import Ladder
from ptq.methods.mixed import OMPQ
from ptq.model.graph import Model
from ptq.model.save import digest
from ptq.orthogonality import BETA, likeness, orthogonality, output_grams, thetas, worths
from ptq.pipeline import together
from ptq.pipeline.calibrate import BATCH, Statistics
from ptq.pipeline.solved import Given, Solved, arrays_of, shift_of
from ptq.pipeline.stages import Stages
from ptq.qtensor import QTensor
from ptq.recipe import Plan
from ptq.sensitivity import Change, output_effects
from ptq.solve import Curvature, rounded_anew


def free_sites(plan: Plan, solved: Mapping[str, Solved]) -> dict[str, Ladder]:
    """The sites that have several sizes, of which the user says none."""
    ladders = {name: found.ladder for name, found in solved.items()}
    return {
        name: ladder
        for name, ladder in ladders.items()
        if len(ladder.rungs) > 1 and plan.sites[name].said.points is None
    }


def importance(
    given: Given, solved: Mapping[str, Solved], measured: Dataset | None, stages: Stages
) -> dict[str, float]:
    """What each site does to the output of the network on its base rung, or with OMPQ what eight bits are worth there.

    That of sites whose size is to be chosen, and only where it is by bits or time for all. It is found on the samples
    `measured`; without any, it is what a site does to its own output.
    """
    recipe = given.plan.recipe
    free = {name: solved[name] for name in free_sites(given.plan, solved)}
    if not free or recipe.tolerance is not None:
        return {}
    if recipe.worth == OMPQ and measured is not None:
        return _worths(given, free, measured, stages)
    if given.statistics is not None and measured is not None:
        return _effects(given, given.statistics, free, measured, stages)
    return {name: _own_effect(found.ladder) for name, found in free.items()}


def _own_effect(ladder: Ladder) -> float:
    error, power = ladder.error[ladder.base].sum(), ladder.power.sum()
    return float(error / power) if power > 0 else 0.0


def _worths(given: Given, solved: Mapping[str, Solved], measured: Dataset, stages: Stages) -> dict[str, float]:
    """What eight bits are worth at each site, by OMPQ."""
    beta, sites = given.plan.recipe.beta, [found.site for found in solved.values()]
    own = together.dealt(dict.fromkeys(solved, 1.0))
    with stages.stage("allocate", len(sites)) as advance:
        batches = [batch.feeds for batch in measured.batches(BATCH)]
        grams = together.joined(output_grams(given.model, sites, own, batches, advance))
    gamma = likeness(orthogonality([grams[name] for name in solved]))
    found = worths(thetas(gamma - gamma.min(), BETA if beta is None else beta))
    return dict(zip(solved, found.tolist(), strict=True))


def _effects(
    given: Given, statistics: Statistics, solved: Mapping[str, Solved], measured: Dataset, stages: Stages
) -> dict[str, float]:
    """What each site on its base rung does to the output; each is kept as soon as it is known.

    The site is rounded anew for it, on the scales that it has, without the samples it is measured on, where there are
    enough of them.
    """
    model, store = given.model, given.store
    alike = (digest(model), measured.fingerprint(), sorted(statistics.apart), [*solved])

    def key(name: str) -> Callable[[], tuple[object, ...]]:
        return lambda: (*alike, name, solved[name].sizes.path.name)

    kept = {name: store.find("effect", key(name)) for name in solved}
    found = together.joined({name: each.load() for name, each in kept.items() if each is not None})
    behind = {name: float(len(solved) - place) for place, name in enumerate(solved) if name not in found}
    if behind:
        changes = (_change(model, each, statistics) for each in solved.values())
        batches, own = [batch.feeds for batch in measured.batches(BATCH)], dict[str, float]()
        with stages.stage("allocate", len(solved)) as advance:
            for name, effect in output_effects(model, changes, together.dealt(behind), batches, advance):
                own[name] = store.get("effect", key(name), partial(float, effect))
            found |= together.joined(own)
    return {name: found[name] for name in solved}


def _change(model: Model, solved: Solved, statistics: Statistics) -> Change:
    """One site on its base rung, rounded for the moment `apart` where there is one."""
    site, bias = solved.site, solved.site.uses[0].bias
    names = (site.weight,) if solved.mean is None or bias is None else (site.weight, bias)

    def arrays() -> dict[str, np.ndarray]:
        ladder, apart = solved.full(), statistics.apart.get(site.name)
        term, *more = ladder.rungs[ladder.base]
        if apart is None or more:
            weight, mean = QTensor((term, *more), ladder.shape).dequantize(), solved.mean
        else:
            moment = apart.gram if solved.mean is None else apart.centred()
            curvature = Curvature.of(moment, apart.count, term.format.span)
            weight = rounded_anew(solved.matrix().reshape(site.groups, -1, site.columns), term, curvature).flatten(0, 1)
            mean = None if solved.mean is None else apart.mean
        return arrays_of(model, site, weight, None if mean is None else shift_of(solved.matrix() - weight, mean))

    return Change(site.name, names, arrays)
