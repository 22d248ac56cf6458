"""From what is decided to the quantized model: calibrate, quantize, lower."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from ptq.cache import Store
from ptq.lowering import Execution, SiteLowering, lower
from ptq.model.graph import Model
from ptq.model.streamed import Spool
from ptq.pipeline.clock import Clock
from ptq.pipeline.findings import Findings, find
from ptq.pipeline.job import Job
from ptq.pipeline.made import Made
from ptq.pipeline.manifest import MANIFEST, manifest
from ptq.pipeline.ready import Ready
from ptq.pipeline.solved import SiteWeights
from ptq.pipeline.stages import Stages
from ptq.pipeline.weights import quantize_weights
from ptq.pipeline.written import Written
from ptq.ranks import alone
from ptq.recipe import Plan, Recipe

_IN_TIME: Final = "in float it is as exact as can be, and --max-latency holds"


@dataclass(frozen=True, eq=False)
class Built:
    """A quantized model as files, and what it was made of.

    `lowering` makes the model with some of the weights quantized, and the other layers in float.
    """

    written: Written
    made: Made
    lowering: Callable[[Mapping[str, SiteWeights]], Model]


def build(job: Job, recipe: Recipe, ready: Ready, stages: Stages, store: Store, *, partly: bool = False) -> Built:
    """Quantize a model; what the store has of a run before this, whatever became of it, is not made again.

    `partly` says that what comes out is also lowered with some layers in float.
    """
    found = find(job, ready, stages, store, partly=partly)
    with alone():  # others have done their part
        return _made(job, recipe, ready, stages, found)


def _made(job: Job, recipe: Recipe, ready: Ready, stages: Stages, found: Findings) -> Built:
    """Decide what size each layer has, and write them."""
    plan, executions, data, model = ready.plan, ready.executions, ready.data, found.given.model
    ranges = found.ranges
    grids = {name: grid for name, grid in ready.taken.grids.items() if name in ranges}

    def lowering(weights: Mapping[str, SiteWeights], spool: Spool | None = None) -> Model:
        return lower(model, _lowerings(plan, executions, weights), ranges, plan.activations, grids, spool)

    clock = None
    if data is not None and recipe.max_latency is not None:
        clock = Clock(lowering, next(data.batches(1)).feeds, recipe.max_latency)
    quantized = quantize_weights(found.given, found.solved, found.importance, clock)
    weights = found.steps.after(model, quantized)
    plan = plan.without([name for name, made in plan.methods.items() if made and name not in weights], _IN_TIME)
    executions = {name: how if name in weights else Execution.FLOAT for name, how in executions.items()}
    with stages.stage("lower"), Spool(job.output) as spool:
        lowered = lowering(weights, spool)
        lowered.graph.metadata_props[MANIFEST] = manifest(job.model, recipe, data)
        written = Written.of(lowered, job.output)
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
        tuple(found.steps.notes),
        job.metrics,
    )
    return Built(written, parts, lowering)


def _lowerings(
    plan: Plan, executions: Mapping[str, Execution], weights: Mapping[str, SiteWeights]
) -> dict[str, SiteLowering]:
    found = {}
    for name, how in executions.items():
        made = weights.get(name)
        if made is None:
            found[name] = SiteLowering(Execution.FLOAT, reason=plan.reasons.get(name))
        else:
            found[name] = SiteLowering(how, made.outline, made.bias_shift, read=made.read)
    return found
