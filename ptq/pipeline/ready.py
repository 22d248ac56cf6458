"""Look at model and data, and decide all that does not take running the network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from calibration.dataset import Dataset, fit
from calibration.sources import Source, open_data
from ptq.errors import ModelError
from ptq.evaluate import check_labels
from ptq.lowering import Execution, execution, find_activations, observable
from ptq.methods.mixed import OMPQ
from ptq.model.capture import capture
from ptq.model.graph import Model
from ptq.model.sites import Site
from ptq.model.trained import Trained, trained, without_bridges
from ptq.pipeline.finite import check_finite
from ptq.pipeline.job import Job
from ptq.pipeline.memory import available_bytes, check_moments
from ptq.pipeline.output import check_free, check_not_input
from ptq.pipeline.parts import Part, Wanted, block_bytes, parts
from ptq.pipeline.stages import Stages
from ptq.pipeline.steps import check_steps
from ptq.ranges import ActivationRange
from ptq.ranks import ranks
from ptq.recipe import Plan, Recipe
from ptq.sensitivity import samples_needed, token_positions

_QUANTIZED: Final = ("DequantizeLinear", "MatMulInteger", "ConvInteger", "QLinearConv", "QLinearMatMul", "MatMulNBits")
"""Operators of quantized models."""


@dataclass(frozen=True, eq=False)
class Ready:
    """The model as it came and as it is quantized, what was decided for it, and its data.

    `reserved` is how many samples nothing is measured on but the effects of layers. A block of the network takes up to
    `block_bytes`.
    """

    raw: Model
    taken: Trained
    model: Model
    plan: Plan
    executions: Mapping[str, Execution]
    data: Dataset | None
    evaluation: Dataset | None
    reserved: int
    block_bytes: int


def get_ready(job: Job, recipe: Recipe, stages: Stages) -> Ready:
    """Look at the files, and decide all that does not take running the network."""
    if job.output is not None:
        check_not_input(job.output, [job.model, job.data, job.evaluation])
        check_free(job.output, overwrite=job.overwrite)
    source = None if job.data is None else open_data(job.data, job.images, "--data")
    unseen = None if job.evaluation is None else open_data(job.evaluation, job.images, "--eval")
    with stages.stage("capture"):
        raw = Model(capture(job.model, job.capture, example(source or unseen)))
        if job.output is not None:
            check_not_input(job.output, raw.data_files)
        taken = trained(raw.graph)
        model = Model.of(taken.bridged)
    _check_float(model)
    data = None if source is None else fit(source, model.inputs)
    evaluation = None if unseen is None else _evaluation(unseen, model)
    plan = recipe.plan(model.sites, has_data=data is not None)
    check_finite(model, plan)
    check_steps(model, plan)
    executions = executions_of(model, plan)
    model = without_bridges(model, taken.grids, _static(model, executions))
    reserved = 0 if data is None or not plan.measures else _reserved(model, data, recipe)
    free, apart = available_bytes(), reserved > 0
    free = None if free is None else free // ranks().on_machine
    most = block_bytes(free)
    if data is not None and free is not None:
        check_moments(parts_of(model, plan, wanted(model, plan, executions), most, apart=apart), free, apart=apart)
    return Ready(raw, taken, model, plan, executions, data, evaluation, reserved, most)


def _check_float(model: Model) -> None:
    """Refuse a model without a layer to quantize, as it is quantized already.

    Raises:
        ModelError: that is so.

    """
    counts = Counter(node.op_type for node in model.graph.graph)
    done = [f"{counts[op]} {op}" for op in _QUANTIZED if counts[op]]
    if not model.sites and done:
        raise ModelError(f"the model is quantized already, it has {', '.join(done)}; give the float model")


def _evaluation(source: Source, model: Model) -> Dataset:
    """Data that go with the model's inputs and first output."""
    found = fit(source, model.inputs)
    check_labels(found.labels, model.shape(model.outputs[0]), source.title)
    return found


def _reserved(model: Model, data: Dataset, recipe: Recipe) -> int:
    """How many samples are kept for measuring what sites do to the output; OMPQ compares whole samples."""
    positions = 1 if recipe.worth == OMPQ else token_positions(model, next(data.batches(1)).feeds)
    return samples_needed(len(model.sites), data.samples, positions)


def example(source: Source | None) -> Mapping[str, np.ndarray] | None:
    """A sample or two to capture a model with, where there are data."""
    return None if source is None else source.example()


def executions_of(model: Model, plan: Plan) -> dict[str, Execution]:
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


def _static(model: Model, executions: Mapping[str, Execution]) -> set[str]:
    """The nodes that compute with inputs of one range."""
    return {u.node for site in model.sites if executions[site.name] is Execution.STATIC for u in site.products}


def observed_of(
    model: Model, plan: Plan, executions: Mapping[str, Execution], *, partly: bool = False
) -> tuple[str, ...]:
    """The tensors whose range has to be known; of whatever layers, where some may stay float or are `partly` to."""
    uses = [(executions[site.name], use) for site in model.sites for use in site.products]
    static = _static(model, executions)
    simulated = dict.fromkeys(use.input for how, use in uses if how in (Execution.SIMULATED, Execution.QDQ))
    bounded = partly or plan.recipe.max_latency is not None
    found = observable(model.graph.graph, static) if bounded else find_activations(model.graph.graph, static).observed
    return (*found, *simulated)


def with_shared(
    model: Model, executions: Mapping[str, Execution], ranges: Mapping[str, ActivationRange]
) -> dict[str, ActivationRange]:
    """Ranges by tensor, also of those that are on the grid of another whose range is known."""
    shared = find_activations(model.graph.graph, _static(model, executions)).shared
    return {**ranges, **{name: ranges[source] for name, source in shared.items() if source in ranges}}


def wanted(model: Model, plan: Plan, executions: Mapping[str, Execution], *, partly: bool = False) -> Wanted:
    """What a plan needs, of whatever layers where some are `partly` to stay float."""
    means = [site for site in needing(model, plan, "mean") if model.has_own_bias(site)]
    return Wanted(needing(model, plan, "moment"), means, observed_of(model, plan, executions, partly=partly))


def parts_of(model: Model, plan: Plan, needed: Wanted, most: int, *, apart: bool) -> list[Part]:
    """The blocks that a plan calibrates in."""
    quantized = [site for site in model.sites if plan.methods[site.name] is not None]
    return parts(model, needed, most, apart=apart, rounded=quantized if plan.recipe.sequential else ())


def needing(model: Model, plan: Plan, statistic: str) -> list[Site]:
    """The sites whose method wants that of their inputs."""
    methods = ((site, plan.methods[site.name]) for site in model.sites if site.products)
    return [site for site, method in methods if method is not None and statistic in method.needs]
