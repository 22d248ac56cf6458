"""Quantize the weights of a plan: every site at every number of points, then the number for each row."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from calibration.dataset import Dataset
from calibration.observers import Moment
from ptq import allocation, formats
from ptq.allocation import Rungs
from ptq.ladder import Ladder
from ptq.lowering import Execution
from ptq.method import Method
from ptq.methods.mixed import OMPQ
from ptq.model.graph import Model
from ptq.model.sites import Site
from ptq.orthogonality import BETA, likeness, orthogonality, output_grams, thetas, worths
from ptq.pipeline.calibrate import BATCH, Statistics
from ptq.pipeline.shared import Alone
from ptq.pipeline.stages import Stages
from ptq.qtensor import QTensor
from ptq.ranges import affine
from ptq.recipe import Plan
from ptq.scheme import FLOAT_BITS
from ptq.sensitivity import output_effects
from ptq.solve import Curvature, on_grid, rounded_anew

if TYPE_CHECKING:
    from ptq.pipeline.clock import Clock

_MOST_BIAS_STEPS = 2.0**30
_OMPQ_UNIT = 8
_ALONE = Alone()


@dataclass(frozen=True, eq=False)
class SiteWeights:
    """A quantized site: its weight, what its bias gains `(out,)`, error and power of its output.

    Not `measured`, these are of the weight itself.
    """

    weight: QTensor
    bias_shift: np.ndarray | None
    error: float
    power: float
    measured: bool


@dataclass(frozen=True, eq=False)
class _Given:
    """What the weights of all sites are quantized from."""

    model: Model
    plan: Plan
    executions: Mapping[str, Execution]
    statistics: Statistics | None
    shared: Alone

    def key(self) -> Hashable:
        """All that the sizes of the sites follow from, besides model and statistics."""
        points = tuple((name, each.method, each.said.points) for name, each in self.plan.sites.items())
        how = tuple(self.executions.items())
        return points, how, self.plan.recipe.portable


@dataclass(frozen=True, eq=False)
class _Solved:
    site: Site
    ladder: Ladder
    matrix: Tensor
    measured: bool
    mean: Tensor | None
    """Mean input `(groups, in)`, when the site has a bias of its own that can take up the mean error."""

    def pick(self, rung: Tensor) -> SiteWeights:
        weight = self.ladder.pick(rung)
        shift = None if self.mean is None else _shift(self.matrix - weight.dequantize(), self.mean)
        error = self.ladder.error.gather(0, rung[None]).double().sum()
        power = float(self.ladder.power.double().sum())
        return SiteWeights(weight, shift, float(error), power, self.measured)


def _shift(residual: Tensor, mean: Tensor) -> np.ndarray:
    """What a bias takes up of a residual `(out, in)` where that is the mean input `(groups, in)`; `(out,)`."""
    apart = residual.double().reshape(len(mean), -1, mean.shape[1])
    shift: np.ndarray = (apart @ mean.double()[:, :, None]).reshape(-1).float().numpy()
    return shift


def quantize_weights(
    model: Model,
    plan: Plan,
    executions: Mapping[str, Execution],
    statistics: Statistics | None,
    measured: Dataset | None,
    stages: Stages,
    *,
    clock: Clock | None = None,
    shared: Alone = _ALONE,
) -> dict[str, SiteWeights]:
    """The weights of all sites that the plan does not leave in float, nor the clock, which bounds the time of all.

    What each does to the output, where the plan wants it, is found on the samples `measured`.
    """
    given = _Given(model, plan, executions, statistics, shared)
    solved = shared.get("solved", given.key, lambda: _solved(given, stages))
    rungs = _allocate(given, solved, measured, stages, clock)
    return _picked(solved, rungs)


def _solved(given: _Given, stages: Stages) -> dict[str, _Solved]:
    """Every site that is quantized, in all sizes that it can have."""
    chosen = [site for site in given.model.sites if given.plan.methods[site.name] is not None]
    with stages.stage("quantize", len(chosen)) as advance:
        solved = {}
        for site in chosen:
            solved[site.name] = _solve(given, site, given.plan.sites[site.name].said.points)
            advance()
    return solved


def _picked(solved: Mapping[str, _Solved], rungs: Rungs) -> dict[str, SiteWeights]:
    return {name: found.pick(rungs[name]) for name, found in solved.items() if name in rungs}


def _solve(given: _Given, site: Site, points: int | None) -> _Solved:
    """A site with up to `points` points."""
    model, statistics = given.model, given.statistics
    method = given.plan.methods[site.name]
    if method is None:
        raise AssertionError
    matrix = torch.from_numpy(np.array(model.matrix(site), np.float32))
    weight = matrix.reshape(site.groups, -1, site.columns)
    least = _least_scale(given, site)
    moments = {} if statistics is None else statistics.moments
    if site.name not in moments:
        curvature = Curvature.unknown(site.groups, site.columns)
        ladder = _ladder(given, method, weight, curvature, points, least)
        mean = None if statistics is None else statistics.means.get(site.name)
        return _Solved(site, ladder, matrix, measured=False, mean=mean)
    moment = moments[site.name]
    own_bias = model.has_own_bias(site)
    span = method.scheme.format.span
    curvature = Curvature.of(moment.centred() if own_bias else moment.gram, moment.count, span)
    ladder = _ladder(given, method, weight, curvature, points, least)
    return _Solved(site, ladder, matrix, measured=True, mean=moment.mean if own_bias else None)


def is_on_grid(model: Model, plan: Plan, site: Site) -> bool:
    """Whether a weight is stored as it is, so that nothing may be multiplied into it before."""
    method = plan.methods[site.name]
    if method is None:
        return False
    weight = torch.from_numpy(np.array(model.matrix(site), np.float32)).reshape(site.groups, -1, site.columns)
    return on_grid(weight, method.scheme, Curvature.unknown(site.groups, site.columns), _most(plan)) is not None


def _most(plan: Plan) -> int:
    return formats.most_steps(portable=plan.recipe.portable)


def _ladder(
    given: _Given, method: Method, weight: Tensor, curvature: Curvature, points: int | None, least: Tensor | None
) -> Ladder:
    """A weight as it is where it lies on a grid of the format, else as the method makes it."""
    exact = on_grid(weight, method.scheme, curvature, _most(given.plan))
    if exact is not None and (least is None or bool((exact.rungs[0][0].scale >= least).all())):
        return exact
    return method.ladder(weight, curvature, points=points, least_scale=least)


def _least_scale(given: _Given, site: Site) -> Tensor | None:
    """Scales below this would make the int32 bias overflow, which is counted in steps of input times weight."""
    model, statistics = given.model, given.statistics
    if statistics is None or given.executions[site.name] is not Execution.STATIC:
        return None
    least = None
    for use in site.uses:
        seen = statistics.ranges.get(use.input)
        if use.bias is None or seen is None:
            continue
        step, _ = affine(formats.get("uint8"), seen.low, seen.high)
        bias = torch.from_numpy(np.abs(model.initializer(use.bias).astype(np.float64)).reshape(-1))
        here = (bias / (float(step) * _MOST_BIAS_STEPS)).float().expand(site.rows)
        least = here if least is None else least.maximum(here)
    return least


def _allocate(
    given: _Given, solved: Mapping[str, _Solved], measured: Dataset | None, stages: Stages, clock: Clock | None
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


def _worths(given: _Given, sites: Sequence[Site], measured: Dataset, stages: Stages) -> dict[str, float]:
    """What eight bits are worth at each site, by OMPQ."""
    beta = given.plan.recipe.beta
    with stages.stage("allocate", len(sites)) as advance:
        grams = output_grams(given.model, sites, [batch.feeds for batch in measured.batches(BATCH)], advance)
    gamma = likeness(orthogonality(grams))
    found = worths(thetas(gamma - gamma.min(), BETA if beta is None else beta))
    return dict(zip([site.name for site in sites], found.tolist(), strict=True))


def _effects(
    given: _Given, solved: Mapping[str, _Solved], measured: Dataset | None, stages: Stages
) -> dict[str, float]:
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

    return given.shared.get("effects", lambda: (given.key(), tuple(solved)), made)


def _change(model: Model, solved: _Solved, apart: Moment | None) -> dict[str, np.ndarray]:
    """The initializers of the model when one site is on its base rung, rounded for the moment where there is one."""
    site, (term, *more) = solved.site, solved.ladder.rungs[solved.ladder.base]
    if apart is None or more:
        weight, mean = QTensor((term, *more), solved.ladder.shape).dequantize(), solved.mean
    else:
        moment = apart.gram if solved.mean is None else apart.centred()
        curvature = Curvature.of(moment, apart.count, term.format.span)
        weight = rounded_anew(solved.matrix.reshape(site.groups, -1, site.columns), term, curvature).flatten(0, 1)
        mean = None if solved.mean is None else apart.mean
    arrays, bias = {site.weight: site.tensor(weight.numpy())}, site.uses[0].bias
    if mean is not None and bias is not None:
        old = model.initializer(bias)
        arrays[bias] = (old + _shift(solved.matrix - weight, mean).reshape(old.shape)).astype(np.float32)
    return arrays
