"""From what is decided to the quantized model: calibrate, quantize, lower."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from calibration.batch import Batch
from calibration.dataset import Dataset
from ptq.cache import Store
from ptq.lowering import Execution, SiteLowering, lower
from ptq.model.graph import Model
from ptq.model.save import digest
from ptq.model.sites import Site
from ptq.model.streamed import Spool
from ptq.pipeline.blockwise import Blockwise, Passed
from ptq.pipeline.boundary import Boundary
from ptq.pipeline.calibrate import BATCH, Statistics, calibrate
from ptq.pipeline.clock import Clock
from ptq.pipeline.job import Job
from ptq.pipeline.made import Made
from ptq.pipeline.manifest import MANIFEST, manifest
from ptq.pipeline.parts import Wanted
from ptq.pipeline.ready import Ready, parts_of, wanted, with_shared
from ptq.pipeline.smooth import Smoothings, blocks_read, smoothable, smoothed, smoothing
from ptq.pipeline.solved import Given, SiteWeights
from ptq.pipeline.stages import Advance, Stages
from ptq.pipeline.steps import Steps
from ptq.pipeline.weights import quantize_weights, rounded_weights
from ptq.pipeline.written import Written
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
    plan, executions, data = ready.plan, ready.executions, ready.data
    steps = Steps(plan, executions, data, stages, [])
    model = steps.before(ready.model)
    statistics = None
    if data is not None:
        model = _smoothed(model, ready, data, stages, store)
        statistics = _calibrated(model, ready, data, stages, store, partly=partly)
    ranges = statistics.ranges if statistics else {}
    grids = {name: grid for name, grid in ready.taken.grids.items() if name in ranges}

    def lowering(weights: Mapping[str, SiteWeights], spool: Spool | None = None) -> Model:
        return lower(model, _lowerings(plan, executions, weights), ranges, plan.activations, grids, spool)

    clock = None
    if data is not None and recipe.max_latency is not None:
        clock = Clock(lowering, next(data.batches(1)).feeds, recipe.max_latency)
    measured = data.take(ready.reserved) if data is not None and ready.reserved else None
    if statistics is not None:
        statistics = replace(statistics, ranges=with_shared(model, executions, ranges))
    quantized = quantize_weights(model, plan, executions, statistics, measured, stages, store=store, clock=clock)
    weights = steps.after(model, quantized)
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
        tuple(steps.notes),
        job.metrics,
    )
    return Built(written, parts, lowering)


def _smoothed(model: Model, ready: Ready, data: Dataset, stages: Stages, store: Store) -> Model:
    """The model with smoother inputs of its dynamic products; itself where there are none."""
    readers = smoothable(model, ready.executions)
    if not readers:
        return model

    def made() -> Smoothings:
        blocks = blocks_read(model, readers, ready.block_bytes)
        total = None if data.samples is None else -(-data.samples // BATCH) * len(blocks)
        with stages.stage("smooth", total) as advance, store.scratch() as scratch:
            boundary = Boundary(scratch, lambda: data.batches(BATCH))
            return smoothing(model, ready.plan, readers, blocks, boundary, advance)

    def key() -> tuple[object, ...]:
        limits = [(site.name, ready.plan.limit(site.name)) for sites in readers.values() for site in sites]
        return digest(model), data.fingerprint(), limits, ready.plan.methods, [name for name, _ in ready.plan.steps]

    return smoothed(model, readers, store.get("smoothings", key, made))


def _calibrated(
    model: Model, ready: Ready, data: Dataset, stages: Stages, store: Store, *, partly: bool
) -> Statistics | None:
    """What the plan needs to know of the data; None when that is nothing."""
    rule, reserved = ready.plan.recipe.range, ready.reserved
    needed = wanted(model, ready.plan, ready.executions, partly=partly)
    if not needed:
        return None

    def made(block: Model, here: Wanted, batches: Iterable[Batch], advance: Advance, passed: Passed) -> Statistics:
        sites, averaged, observed = here
        return calibrate(
            block, sites, observed, rule, batches, advance, reserved=reserved, averaged=averaged, passed=passed
        )

    def rounds(sites: Sequence[Site], known: Statistics) -> dict[str, SiteWeights]:
        known = replace(known, ranges=with_shared(model, ready.executions, known.ranges))
        return rounded_weights(Given(model, ready.plan, ready.executions, known, store), sites)

    key = (digest(model), data.fingerprint(), rule, reserved)
    blocks = parts_of(model, ready.plan, needed, ready.block_bytes, apart=reserved > 0)
    blockwise = Blockwise(blocks, made, store, key, rounds if ready.plan.recipe.sequential else None)
    count = None if data.samples is None else -(-data.samples // BATCH)
    return blockwise.statistics(lambda: data.batches(BATCH), count, stages)


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
