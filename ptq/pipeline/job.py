"""The main job on one page: capture, calibrate, quantize, allocate, lower, audit, evaluate, report."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from calibration.dataset import Dataset, fit
from calibration.images import ImageOptions
from calibration.sources import Source, open_data
from ptq.errors import OptionError
from ptq.evaluate import check_labels, check_metrics
from ptq.lowering import Execution, SiteLowering, execution, find_activations, lower, observable
from ptq.methods.mixed import OMPQ
from ptq.model.capture import CaptureOptions, capture, captured, is_onnx
from ptq.model.graph import Model
from ptq.model.save import serialized
from ptq.model.sites import Site
from ptq.model.trained import Trained, trained, without_bridges
from ptq.pipeline.calibrate import BATCH, Statistics, calibrate
from ptq.pipeline.clock import Clock
from ptq.pipeline.describe import Made, Reference, describe
from ptq.pipeline.manifest import manifest
from ptq.pipeline.memory import check_moments
from ptq.pipeline.outline import Ready, outline
from ptq.pipeline.output import check_free, check_not_input
from ptq.pipeline.result import Result
from ptq.pipeline.size import Size
from ptq.pipeline.smooth import smoothable, smoothed
from ptq.pipeline.stages import Stages
from ptq.pipeline.steps import Steps, check_steps
from ptq.pipeline.weights import SiteWeights, check_finite, quantize_weights
from ptq.recipe import Plan, Recipe
from ptq.report import Outline
from ptq.sensitivity import samples_needed, token_positions

ACCEPTED_DROP: Final = 0.02
"""The drop of accuracy, a fraction, from which on there is a warning when no option says otherwise."""

_IN_TIME: Final = "in float it is as exact as can be, and --max-latency holds"


def check_drop(max_drop: float) -> None:
    """Check an accepted drop.

    Raises:
        OptionError: it is not a fraction.

    """
    if not 0 <= max_drop <= 1:
        raise OptionError(f"--max-drop {max_drop:g} is not a fraction from 0 to 1; give for example 0.02")


@dataclass(frozen=True)
class Job:
    """What a run is about besides its recipe."""

    model: Any
    data: Any = None
    evaluation: Any = None
    output: Path | None = None
    overwrite: bool = False
    capture: CaptureOptions = field(default_factory=CaptureOptions)
    images: ImageOptions | None = None
    metrics: tuple[str, ...] = ()
    """Scores by name, or `module:callable`; those that go with the labels if left out."""
    max_drop: float | None = None
    target_size: Size | None = None
    """For a recipe that is searched for."""

    def __post_init__(self) -> None:
        """Check what can be checked without looking at the files.

        Raises:
            OptionError: the accepted drop is not a fraction, or there is no metric of a name.

        """
        check_metrics(self.metrics)
        if self.max_drop is not None:
            check_drop(self.max_drop)

    @property
    def accepted_drop(self) -> float:
        """The largest drop that is not warned of."""
        return ACCEPTED_DROP if self.max_drop is None else self.max_drop


def run(job: Job, recipe: Recipe, stages: Stages) -> Result:
    """Quantize a model, measure the result, and write it when the job names an output."""
    result = made(job, recipe, stages)
    if job.output is not None:
        result.save(job.output, overwrite=job.overwrite)
    return result


def made(job: Job, recipe: Recipe, stages: Stages) -> Result:
    """Quantize a model and measure the result, as a file that is not yet where the job wants it."""
    ready = _ready(job, recipe, stages)
    raw, taken, plan, executions = ready.raw, ready.taken, ready.plan, ready.executions
    model, data, evaluation, reserved = ready.model, ready.data, ready.evaluation, ready.reserved
    steps = Steps(plan, executions, data, stages, [])
    model = steps.before(model)
    if data is not None:
        model = _smoothed(model, plan, executions, data, stages)
    observed = _observed(model, plan, executions)
    statistics = None if data is None else _calibrate(model, plan, observed, data, reserved, stages)
    measured = data.take(reserved) if data is not None and reserved else None
    ranges = statistics.ranges if statistics else {}
    grids = {name: grid for name, grid in taken.grids.items() if name in ranges}

    def lowering(weights: Mapping[str, SiteWeights]) -> Model:
        return lower(model, _lowerings(plan, executions, weights), ranges, plan.activations, grids)

    clock = None
    if data is not None and recipe.max_latency is not None:
        clock = Clock(lowering, next(data.batches(1)).feeds, recipe.max_latency)
    weights = steps.after(model, quantize_weights(model, plan, executions, statistics, measured, stages, clock=clock))
    plan = plan.without([name for name, made in plan.methods.items() if made and name not in weights], _IN_TIME)
    executions = {name: how if name in weights else Execution.FLOAT for name, how in executions.items()}
    with stages.stage("lower"):
        lowered = lowering(weights)
        lowered.graph.metadata_props["ptq.manifest"] = manifest(job.model, recipe, data)
        content = serialized(lowered)
    parts = Made(
        job.model,
        model,
        plan,
        executions,
        weights,
        lowered,
        data,
        evaluation,
        taken.rounded,
        len(grids),
        tuple(steps.notes),
        job.metrics,
    )
    with tempfile.TemporaryDirectory(prefix="ptq-") as folder:
        reference = _reference(job.model, raw, taken, Path(folder))
        written = Path(folder) / "quantized.onnx"
        written.write_bytes(content)
        report = describe(parts, reference, written, job.output, job.accepted_drop, stages)
    return Result(content, report)


def preview(job: Job, recipe: Recipe, stages: Stages) -> Outline:
    """What `run` would do, up to where it begins to measure and to round; nothing is written."""
    ready = _ready(job, recipe, stages)
    needing = {kind: {site.name for site in _needing(ready.model, ready.plan, kind)} for kind in ("moment", "mean")}
    needing["mean"] &= {site.name for site in ready.model.sites if ready.model.has_own_bias(site)}
    return outline(job.model, ready, needing, _observed(ready.model, ready.plan, ready.executions))


def exported(job: Job) -> Job:
    """The same about the ONNX graph of its model, for those who run it more than once: an export takes its time."""
    if is_onnx(job.model):
        return job
    source = None if job.data is None else open_data(job.data, job.images, "--data")
    return replace(job, model=captured(job.model, job.capture, _example(source)), capture=CaptureOptions())


def _ready(job: Job, recipe: Recipe, stages: Stages) -> Ready:
    """Look at the files, and decide all that does not take running the network."""
    if job.output is not None:
        check_not_input(job.output, [job.model, job.data, job.evaluation])
        check_free(job.output, overwrite=job.overwrite)
    source = None if job.data is None else open_data(job.data, job.images, "--data")
    unseen = None if job.evaluation is None else open_data(job.evaluation, job.images, "--eval")
    with stages.stage("capture"):
        raw = Model(capture(job.model, job.capture, _example(source or unseen)))
        if job.output is not None:
            check_not_input(job.output, raw.data_files)
        taken = trained(raw.graph)
        model = Model.of(taken.bridged)
    data = None if source is None else fit(source, model.inputs)
    evaluation = None if unseen is None else _evaluation(unseen, model)
    plan = recipe.plan(model.sites, has_data=data is not None)
    check_finite(model, plan)
    check_steps(model, plan)
    executions = _executions(model, plan)
    model = without_bridges(model, taken.grids, _static(model, executions))
    reserved = 0 if data is None or not plan.measures else _reserved(model, data, recipe)
    if data is not None:
        check_moments(_needing(model, plan, "moment"), apart=reserved > 0)
    return Ready(raw, taken, model, plan, executions, data, evaluation, reserved)


def _evaluation(source: Source, model: Model) -> Dataset:
    """Data that go with the model's inputs and first output."""
    found = fit(source, model.inputs)
    check_labels(found.labels, model.shape(model.outputs[0]), source.title)
    return found


def _reserved(model: Model, data: Dataset, recipe: Recipe) -> int:
    """How many samples are kept for measuring what sites do to the output; OMPQ compares whole samples."""
    positions = 1 if recipe.worth == OMPQ else token_positions(model, next(data.batches(1)).feeds)
    return samples_needed(len(model.sites), data.samples, positions)


def _example(source: Source | None) -> Mapping[str, np.ndarray] | None:
    return None if source is None else source.example()


def _executions(model: Model, plan: Plan) -> dict[str, Execution]:
    """How each site will compute."""
    found = {}
    for site in model.sites:
        decided = plan.sites[site.name]
        if decided.method is None:
            found[site.name] = Execution.FLOAT
        elif decided.pair is not None:
            found[site.name] = decided.pair.execution
        else:
            found[site.name] = execution(model, site, decided.method, decided.activations)
    return found


def _smoothed(model: Model, plan: Plan, executions: Mapping[str, Execution], data: Dataset, stages: Stages) -> Model:
    """The model with smoother inputs of its dynamic products; itself where there are none."""
    readers = smoothable(model, executions)
    if not readers:
        return model
    total = None if data.samples is None else -(-data.samples // BATCH)
    with stages.stage("smooth", total) as advance:
        return smoothed(model, plan, readers, data.batches(BATCH), advance)


def _static(model: Model, executions: Mapping[str, Execution]) -> set[str]:
    """The nodes that compute with inputs of one range."""
    return {u.node for site in model.sites if executions[site.name] is Execution.STATIC for u in site.products}


def _observed(model: Model, plan: Plan, executions: Mapping[str, Execution]) -> tuple[str, ...]:
    """The tensors whose range has to be known; where a bound on the time decides, of whatever it may come to."""
    uses = [(executions[site.name], use) for site in model.sites for use in site.products]
    static = _static(model, executions)
    simulated = dict.fromkeys(use.input for how, use in uses if how in (Execution.SIMULATED, Execution.QDQ))
    bounded = plan.recipe.max_latency is not None
    found = observable(model.graph.graph, static) if bounded else find_activations(model.graph.graph, static).observed
    return (*found, *simulated)


def _calibrate(
    model: Model, plan: Plan, observed: Collection[str], data: Dataset, reserved: int, stages: Stages
) -> Statistics | None:
    """What the plan needs to know of the data; None when that is nothing."""
    sites = _needing(model, plan, "moment")
    averaged = [site for site in _needing(model, plan, "mean") if model.has_own_bias(site)]
    if not sites and not averaged and not observed:
        return None
    total = None if data.samples is None else -(-data.samples // BATCH)
    with stages.stage("calibrate", total) as advance:
        batches, rule = data.batches(BATCH), plan.recipe.range
        return calibrate(model, sites, observed, rule, batches, advance, reserved=reserved, averaged=averaged)


def _needing(model: Model, plan: Plan, statistic: str) -> list[Site]:
    """The sites whose method wants that of their inputs."""
    methods = ((site, plan.methods[site.name]) for site in model.sites if site.products)
    return [site for site, method in methods if method is not None and statistic in method.needs]


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


def _reference(source: object, raw: Model, taken: Trained, folder: Path) -> Reference:
    """Files of the float network to compare with: the user's own when it is ONNX."""
    if isinstance(source, Path) and is_onnx(source):
        own = source
    else:
        own = folder / "float.onnx"
        own.write_bytes(serialized(raw))
    if not taken.rounded:
        return Reference(own, own)
    unrounded = folder / "unrounded.onnx"
    unrounded.write_bytes(serialized(Model(taken.plain)))
    return Reference(own, unrounded)
