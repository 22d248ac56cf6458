"""From what is decided to the quantized model: calibrate, quantize, lower."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import Final

from calibration.dataset import Dataset
from ptq.lowering import Execution, SiteLowering, lower
from ptq.model.graph import Model
from ptq.model.save import serialized
from ptq.pipeline.calibrate import BATCH, Statistics, calibrate
from ptq.pipeline.clock import Clock
from ptq.pipeline.job import Job
from ptq.pipeline.made import Made
from ptq.pipeline.manifest import MANIFEST, manifest
from ptq.pipeline.ready import Ready, wanted, with_shared
from ptq.pipeline.shared import Alone
from ptq.pipeline.smooth import smoothable, smoothed
from ptq.pipeline.stages import Stages
from ptq.pipeline.steps import Steps
from ptq.pipeline.weights import SiteWeights, quantize_weights
from ptq.recipe import Plan, Recipe

_IN_TIME: Final = "in float it is as exact as can be, and --max-latency holds"


@dataclass(frozen=True, eq=False)
class Built:
    """A quantized model as the bytes of a file, and what it was made of.

    `lowering` makes the model with some of the weights quantized, and the other layers in float.
    """

    content: bytes
    made: Made
    lowering: Callable[[Mapping[str, SiteWeights]], Model]


def build(job: Job, recipe: Recipe, ready: Ready, stages: Stages, shared: Alone, *, partly: bool = False) -> Built:
    """Quantize a model; what `shared` has from a run before this on the same model and data is not made again.

    `partly` says that what comes out is also lowered with some layers in float.
    """
    plan, executions, data = ready.plan, ready.executions, ready.data
    steps = Steps(plan, executions, data, stages, [])
    model = steps.before(ready.model)
    statistics = None
    if data is not None:
        model = _smoothed(model, ready, data, stages, shared)
        statistics, shared = _calibrated(model, ready, data, stages, shared, partly=partly)
    else:
        shared = shared.under(lambda: _digest(model))
    ranges = statistics.ranges if statistics else {}
    grids = {name: grid for name, grid in ready.taken.grids.items() if name in ranges}

    def lowering(weights: Mapping[str, SiteWeights]) -> Model:
        return lower(model, _lowerings(plan, executions, weights), ranges, plan.activations, grids)

    clock = None
    if data is not None and recipe.max_latency is not None:
        clock = Clock(lowering, next(data.batches(1)).feeds, recipe.max_latency)
    measured = data.take(ready.reserved) if data is not None and ready.reserved else None
    if statistics is not None:
        statistics = replace(statistics, ranges=with_shared(model, executions, ranges))
    quantized = quantize_weights(model, plan, executions, statistics, measured, stages, clock=clock, shared=shared)
    weights = steps.after(model, quantized)
    plan = plan.without([name for name, made in plan.methods.items() if made and name not in weights], _IN_TIME)
    executions = {name: how if name in weights else Execution.FLOAT for name, how in executions.items()}
    with stages.stage("lower"):
        lowered = lowering(weights)
        lowered.graph.metadata_props[MANIFEST] = manifest(job.model, recipe, data)
        content = serialized(lowered)
    parts = Made(
        job.model,
        model,
        plan,
        executions,
        weights,
        lowered,
        data,
        ready.evaluation,
        ready.taken.rounded,
        len(grids),
        tuple(steps.notes),
        job.metrics,
    )
    return Built(content, parts, lowering)


def _smoothed(model: Model, ready: Ready, data: Dataset, stages: Stages, shared: Alone) -> Model:
    """The model with smoother inputs of its dynamic products; itself where there are none."""
    readers = smoothable(model, ready.executions)
    if not readers:
        return model

    def made() -> Model:
        total = None if data.samples is None else -(-data.samples // BATCH)
        with stages.stage("smooth", total) as advance:
            return smoothed(model, ready.plan, readers, data.batches(BATCH), advance)

    def key() -> Hashable:
        limits = tuple((site.name, ready.plan.limit(site.name)) for sites in readers.values() for site in sites)
        return _digest(model), limits, _methods(ready.plan), tuple(name for name, _ in ready.plan.steps)

    return shared.get("smoothed", key, made)


def _calibrated(
    model: Model, ready: Ready, data: Dataset, stages: Stages, shared: Alone, *, partly: bool
) -> tuple[Statistics | None, Alone]:
    """What the plan needs to know of the data, None when that is nothing; and what is shared of all that follows."""
    plan = ready.plan
    needed = wanted(model, plan, ready.executions, partly=partly)
    sites, averaged, observed = needed

    def made() -> Statistics:
        total = None if data.samples is None else -(-data.samples // BATCH)
        with stages.stage("calibrate", total) as advance:
            batches, rule = data.batches(BATCH), plan.recipe.range
            return calibrate(model, sites, observed, rule, batches, advance, reserved=ready.reserved, averaged=averaged)

    @cache
    def key() -> Hashable:
        named = tuple(tuple(site.name for site in each) for each in (sites, averaged))
        return _digest(model), named, tuple(observed), plan.recipe.range, ready.reserved

    return None if not needed else shared.get("statistics", key, made), shared.under(key)


def _methods(plan: Plan) -> Hashable:
    return tuple(plan.methods.items())


def _digest(model: Model) -> str:
    return hashlib.sha256(serialized(model)).hexdigest()


def _lowerings(
    plan: Plan, executions: Mapping[str, Execution], weights: Mapping[str, SiteWeights]
) -> dict[str, SiteLowering]:
    found = {}
    for name, how in executions.items():
        made = weights.get(name)
        if made is None:
            found[name] = SiteLowering(Execution.FLOAT, reason=plan.reasons.get(name))
        else:
            found[name] = SiteLowering(how, made.weight, made.bias_shift)
    return found
