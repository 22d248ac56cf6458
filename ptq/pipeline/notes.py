"""What is to be said of a run besides its figures."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from ptq.evaluate import Accuracy
from ptq.lowering import Execution
from ptq.model.graph import Model
from ptq.model.precision import computed_in
from ptq.pipeline.made import Made

_MUCH = 0.01
"""The part of all weights from which those are named that no layer of the report has."""

_UNSPENT = 0.4
"""Bits a weight."""

_APART = 3.0
"""How many times as wide as what they share the ranges of two data may be."""


def notes_of(made: Made, bits: float, accuracy: Accuracy | None) -> tuple[str, ...]:
    """All notes, those of the steps first; `bits` are those of a weight, on average."""
    return (
        *made.steps,
        *precision_notes(made.model),
        *_notes(made),
        *_unspent(made, bits),
        *_float_notes(made.model),
        *_accuracy_notes(made, accuracy),
    )


def precision_notes(model: Model) -> Iterator[str]:
    """Where the model came in other floats."""
    kind = computed_in(model.graph)
    if kind is not None:
        rounded = ", which rounds its weights" if "float64" in kind else ""
        more = f"{rounded}{', inputs and outputs too' if 'bfloat16' in kind else ''}"
        yield f"the model computes in {kind}; FP32 here is the same network in float32{more}; its size is as it came"


def _unspent(made: Made, bits: float) -> Iterator[str]:
    """Where more bits are given than the layers can have."""
    given = None if made.plan.recipe.max_latency is not None else made.plan.recipe.bits
    if given is not None and made.weights and bits < given - _UNSPENT:
        yield f"--bits {given:g} is more than layers can have, they take {bits:.2f}; give a wider format by --weights"


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


def data_warnings(made: Made) -> Iterator[str]:
    """Where the numbers of both data are so far apart that they were hardly prepared alike."""
    surveys = [None if data is None else data.survey for data in (made.data, made.evaluation)]
    if surveys[0] is None or surveys[1] is None:
        return
    for name, (low, high) in surveys[0].ranges.items():
        least, most = surveys[1].ranges[name]
        widest, overlap = max(high - low, most - least), min(high, most) - max(low, least)
        if widest > _APART * max(overlap, 0.0):
            yield (
                f"{name!r} is in {low:.3g}..{high:.3g} in the calibration data and in {least:.3g}..{most:.3g} in those "
                f"of --eval; prepare both as in training"
            )


def _accuracy_notes(made: Made, accuracy: Accuracy | None) -> Iterator[str]:
    seen = made.evaluation or made.data
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
