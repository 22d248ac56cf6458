"""What a run finds out before it decides how large each layer becomes, together with all ranks."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from calibration.batch import Batch
from calibration.dataset import Dataset
from ptq.cache import Store
from ptq.devices import CPU
from ptq.model.graph import Model
from ptq.model.save import digest
from ptq.model.session import runs_on
from ptq.model.sites import Site
from ptq.pipeline import together
from ptq.pipeline.blockwise import Blockwise, Passed
from ptq.pipeline.boundary import Boundary
from ptq.pipeline.calibrate import BATCH, Statistics, calibrate
from ptq.pipeline.importance import importance
from ptq.pipeline.job import Job
from ptq.pipeline.parts import Wanted
from ptq.pipeline.ready import Ready, parts_of, wanted, with_shared
from ptq.pipeline.smooth import Smoothings, blocks_read, smoothable, smoothed, smoothing
from ptq.pipeline.solved import Given, SiteWeights, Solved, solved_sites
from ptq.pipeline.stages import Advance, Stages
from ptq.pipeline.steps import Steps
from ptq.pipeline.weights import rounded_weights
from ptq.ranges import ActivationRange

_NO_GPU: Final = "calibrated on the processor: this ONNX Runtime knows no GPU, onnxruntime-gpu does"


@dataclass(frozen=True, eq=False)
class Findings:
    """The steps that were done, ranges by tensor, each layer in all sizes that it can have, and how much it matters."""

    steps: Steps
    ranges: Mapping[str, ActivationRange]
    given: Given
    solved: Mapping[str, Solved]
    importance: Mapping[str, float]


def find(job: Job, ready: Ready, stages: Stages, store: Store, *, partly: bool = False) -> Findings:
    """Measure and solve; what the store has of a run before this is not made again.

    `partly` says that some layers are to be lowered in float as well.
    """
    together.check_alike(ready.model, ready.plan.recipe, ready.data)
    ready = replace(ready, block_bytes=together.least(ready.block_bytes))
    steps = Steps(ready.plan, ready.executions, ready.data, stages, store, [])
    model, statistics = steps.before(ready.model), None
    if ready.data is not None:
        model = _smoothed(model, ready, ready.data, stages, store)
        statistics = _calibrated(job, model, ready, stages, store, partly=partly)
        if not runs_on(job.device):
            steps.notes.append(_NO_GPU)
    given = _given(job, model, ready, statistics, store)
    solved = solved_sites(given, stages)
    measured = ready.data.take(ready.reserved) if ready.data is not None and ready.reserved else None
    matters = importance(given, solved, measured, stages)
    return Findings(steps, statistics.ranges if statistics else {}, given, solved, matters)


def _given(job: Job, model: Model, ready: Ready, known: Statistics | None, store: Store) -> Given:
    if known is not None:
        known = replace(known, ranges=with_shared(model, ready.executions, known.ranges))
    return Given(model, ready.plan, ready.executions, known, store, job.device)


def _smoothed(model: Model, ready: Ready, data: Dataset, stages: Stages, store: Store) -> Model:
    """The model with smoother inputs of its dynamic products; itself where there are none."""
    readers = smoothable(model, ready.executions)
    if not readers:
        return model

    def made() -> Smoothings:
        blocks = blocks_read(model, readers, ready.block_bytes)
        count = together.own_count(data, BATCH)
        with (
            stages.stage("smooth", None if count is None else count * len(blocks)) as advance,
            store.scratch() as scratch,
        ):
            boundary = Boundary(scratch, lambda: together.own(data, BATCH))
            return smoothing(model, ready.plan, readers, blocks, boundary, advance)

    def key() -> tuple[object, ...]:
        limits = [(site.name, ready.plan.limit(site.name)) for sites in readers.values() for site in sites]
        return digest(model), data.fingerprint(), limits, ready.plan.methods, [name for name, _ in ready.plan.steps]

    return smoothed(model, readers, together.get(store, "smoothings", key, made))


def _calibrated(
    job: Job, model: Model, ready: Ready, stages: Stages, store: Store, *, partly: bool
) -> Statistics | None:
    """What the plan needs to know of the data; None when that is nothing."""
    rule, reserved, data = ready.plan.recipe.range, ready.reserved, ready.data
    needed = wanted(model, ready.plan, ready.executions, partly=partly)
    device = job.device if runs_on(job.device) else CPU
    if data is None or not needed:
        return None

    def made(block: Model, here: Wanted, batches: Iterable[Batch], advance: Advance, passed: Passed) -> Statistics:
        sites, averaged, observed = here
        return calibrate(
            block,
            sites,
            observed,
            rule,
            batches,
            advance,
            reserved=reserved,
            averaged=averaged,
            device=device,
            passed=passed,
        )

    def rounds(sites: Sequence[Site], known: Statistics) -> dict[str, SiteWeights]:
        return rounded_weights(_given(job, model, ready, known, store), sites)

    key = (digest(model), data.fingerprint(), rule, reserved, device)
    blocks = parts_of(model, ready.plan, needed, ready.block_bytes, apart=reserved > 0)
    blockwise = Blockwise(blocks, made, store, key, rounds if ready.plan.recipe.sequential else None)
    return blockwise.statistics(lambda: together.own(data, BATCH), together.own_count(data, BATCH), stages)
