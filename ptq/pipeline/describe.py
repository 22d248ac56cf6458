"""Measure a written file and put together the report."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch

from calibration.dataset import Dataset
from ptq.audit import Audit, audit
from ptq.evaluate import Accuracy, evaluate
from ptq.lowering import TARGETS, Checks, Execution, Target, stored_bytes, stored_weight
from ptq.model.graph import Model
from ptq.model.session import Session
from ptq.model.sites import Site
from ptq.pipeline.distributions import activations, points_by_part, weight_distribution
from ptq.pipeline.manifest import digest, versions
from ptq.pipeline.stages import Stages
from ptq.pipeline.weights import SiteWeights
from ptq.qtensor import QTensor
from ptq.recipe import Plan
from ptq.report import FileReport, LayerReport, Report, SourceReport, warnings_of

EVALUATION_BATCH = 8
_SAMPLES_WITHOUT_EVAL = 32
_MUCH = 0.01
"""The part of all weights from which those are named that no layer of the report has."""


@dataclass(frozen=True, eq=False)
class Made:
    """All that a run made, for the report to describe."""

    source: Any
    model: Model
    plan: Plan
    executions: Mapping[str, Execution]
    weights: Mapping[str, SiteWeights]
    lowered: Model
    data: Dataset | None
    evaluation: Dataset | None
    rounded: int
    """How many layers round their inputs in the model as it came."""
    kept: int
    """How many activations have the grid of that rounding."""
    steps: tuple[str, ...] = ()
    """What the steps before and after the method did."""
    metrics: tuple[str, ...] = ()
    """The scores that were asked for."""

    @property
    def target(self) -> Target:
        """What the file is for."""
        return TARGETS[self.plan.recipe.target]

    @property
    def elsewhere(self) -> str | None:
        """The same where it is not measured here."""
        return self.target.name if self.target.checks is Checks.AS_WRITTEN else None


class Reference(NamedTuple):
    """The float network as a file: as it came, for accuracy, and without the rounding of its activations, for speed."""

    given: Path
    unrounded: Path


def describe(
    made: Made, reference: Reference, written: Path, output: Path | None, max_drop: float, stages: Stages
) -> Report:
    """Audit and evaluate the written file against the float file, and judge it."""
    seen = made.evaluation or made.data
    feeds = [] if seen is None else [batch.feeds for batch in seen.take(4).batches(4)]
    held = made.data or made.evaluation
    with stages.stage("audit"):
        found = audit(reference.unrounded, written, feeds, made.target.checks)
        fmt = made.plan.activations
        shown = () if held is None else activations(made.model, made.lowered, made.executions, fmt, held)
    accuracy = None if seen is None else _accuracy(made, seen, reference.given, written, stages)
    layers = tuple(_layer(made, site, found) for site in made.model.sites)
    quantized = [layer for layer in layers if layer.execution != Execution.FLOAT.value]
    counts = {layer.site: math.prod(layer.shape) for layer in layers}
    weights = sum(counts[layer.site] for layer in quantized)
    report = Report(
        source=source_report(made.source, made.model),
        title=made.plan.recipe.title,
        output=None if output is None else str(output),
        options=made.plan.recipe.as_options(),
        versions=versions(),
        data=None if made.data is None else made.data.describe(),
        layers=layers,
        bits_per_weight=8 * sum(layer.bytes for layer in quantized) / max(weights, 1),
        accuracy=accuracy,
        file=_file(found),
        stages=dict(stages.seconds),
        notes=(*made.steps, *_notes(made), *_float_notes(made.model), *_accuracy_notes(made, seen, accuracy)),
        warnings=(),
        elsewhere=made.elsewhere,
        activations=shown,
    )
    return dataclasses.replace(report, warnings=warnings_of(report, max_drop))


def _accuracy(made: Made, seen: Dataset, reference: Path, written: Path, stages: Stages) -> Accuracy:
    data = seen if made.evaluation is not None else seen.take(_SAMPLES_WITHOUT_EVAL)
    total = None if data.samples is None else -(-data.samples // EVALUATION_BATCH)
    with stages.stage("evaluate", total) as advance:

        def batches() -> Any:
            for batch in data.batches(EVALUATION_BATCH):
                yield batch
                advance()

        optimize = made.target.checks is Checks.OPTIMIZED
        return evaluate(Session(reference), Session(written, optimize=optimize), batches(), made.metrics)


def source_report(source: Any, model: Model) -> SourceReport:
    """What is said of a model that came as `source`."""
    path = source if isinstance(source, Path) else None
    kind = "in memory"
    if path is not None:
        from ptq.model.files import detect

        kind = detect(path).value
    weights = sum(math.prod(site.shape) for site in model.sites)
    name, hashed = (None, None) if path is None else (str(path), digest(path))
    return SourceReport(name, kind, len(model.sites), weights, hashed)


def _layer(made: Made, site: Site, found: Audit) -> LayerReport:
    kernel = found.kernels.get(site.name)
    how = made.executions[site.name]
    done = made.weights.get(site.name)
    stored = stored_bytes(made.lowered, site.name) if done is not None else 4 * math.prod(site.shape)
    common: dict[str, Any] = {
        "site": site.name,
        "op": site.op,
        "shape": site.shape,
        "bytes": stored,
        "bits_per_weight": 8 * stored / math.prod(site.shape),
        "execution": how.value,
        "kernel": None if kernel is None else kernel.op,
        "integer": kernel is not None and kernel.integer,
        "method": made.plan.sites[site.name].named,
        "rule": made.plan.sites[site.name].rule,
        "note": made.plan.reasons.get(site.name) or (None if kernel is None else kernel.reason),
    }
    if done is None:
        return LayerReport(format="float32", points=(), mixes={}, weight_sqnr_db=None, output_sqnr_db=None, **common)
    weight = torch.from_numpy(made.model.matrix(site).copy())
    stored_values = stored_weight(done.weight, how)
    noise = (stored_values - weight).double().square().sum()
    return LayerReport(
        format=layer_format(done.weight),
        points=tuple(torch.bincount(done.weight.points)[1:].tolist()),
        mixes=done.weight.mixes,
        weight_sqnr_db=_decibel(float(weight.double().square().sum()), float(noise)),
        output_sqnr_db=_decibel(done.power, done.error) if done.measured else None,
        numbers=weight_distribution(weight, stored_values, done.weight),
        points_map=points_by_part(done.weight.points),
        **common,
    )


def layer_format(weight: QTensor) -> str:
    """What a weight is stored in, in a few words: of several formats the widest."""
    return max(weight.terms, key=lambda term: term.format.bits).describe()


def _file(found: Audit) -> FileReport:
    speed = found.latency
    return FileReport(
        float_bytes=found.reference.file_bytes,
        bytes=found.quantized.file_bytes,
        float_load_seconds=found.reference.load_seconds,
        load_seconds=found.quantized.load_seconds,
        float_peak_bytes=found.reference.peak_bytes,
        peak_bytes=found.quantized.peak_bytes,
        float_ms=None if speed is None else speed.reference_ms,
        ms=None if speed is None else speed.quantized_ms,
        latency_ratio=None if speed is None else speed.ratio,
        parity_db=found.parity_db,
    )


def _notes(made: Made) -> tuple[str, ...]:
    notes = []
    executions = set(made.executions.values())
    if made.elsewhere is not None:
        notes.append(
            f"latency, memory and kernels were not measured: the file is for {made.elsewhere}, this machine ran it "
            f"unoptimized on a CPU"
        )
        floats = Counter(made.plan.reasons.values())
        notes += [f"{count} layer{'s' * (count > 1)} in float: {reason}" for reason, count in floats.items()]
    if made.data is None:
        notes.append("no calibration data: only the weights are quantized; give --data")
        if made.plan.measures:
            notes.append("no calibration data: bits went by the errors of weights, not by those of outputs")
    if Execution.WEIGHTS in executions:
        notes.append("some weights are only stored in few bits: they are float32 after loading, and so is their speed")
    if Execution.BLOCKS in executions:
        notes.append("MatMulNBits rounds its inputs to int8, in blocks and at every call, whatever --activations says")
    if Execution.SIMULATED in executions:
        fmt = made.plan.activations
        notes.append(f"--activations {fmt} is simulated: right numbers, computed in float and slower than FP32")
    if made.evaluation is None and made.data is not None:
        notes.append("no --eval: agreement and SQNR are those on the calibration data")
    if made.evaluation is None and made.data is None:
        notes.append("no data to run on: accuracy, latency and memory were not measured")
    if made.rounded:
        notes.append(
            f"the model rounds the inputs of {made.rounded} layers, as in training: FP32's accuracy is with that, its "
            f"latency without; {made.kept} activations keep the trained grid, others have one of the data or the call"
        )
    return tuple(notes)


def _float_notes(model: Model) -> Iterator[str]:
    """What has weights and is no layer of the report."""
    others = [(name, size, op) for name, size, op in model.other_weights if size > 1]
    layers = sum(math.prod(site.shape) for site in model.sites)
    count = sum(size for _, size, _ in others)
    if count > _MUCH * (layers + count):
        largest = ", ".join(f"{name!r} of {op}" for name, _, op in sorted(others, key=lambda each: -each[1])[:3])
        yield (
            f"{count:,} of {layers + count:,} weights stay float, in no layer of a kind that is quantized: {largest}"
            f"{', …' if len(others) > 3 else ''}"
        )


def _accuracy_notes(made: Made, seen: Dataset | None, accuracy: Accuracy | None) -> Iterator[str]:
    if accuracy is None or seen is None:
        return
    outputs = made.model.outputs
    if len(outputs) > 1:
        yield f"accuracy is that of the first of {len(outputs)} outputs, {outputs[0]!r}"
    labels = seen.labels
    if accuracy.labelled == 0 and labels is not None:
        why = "they are one a sample, and the first output is not classes of samples"
        by_position = accuracy.positions not in (None, accuracy.samples)
        yield f"the labels are not used: {why if by_position and len(labels.shape) == 1 else 'none is a class'}"


def _decibel(power: float, noise: float) -> float | None:
    return 10 * math.log10(power / noise) if power > 0 and noise > 0 else None
