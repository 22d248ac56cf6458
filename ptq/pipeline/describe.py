"""Measure a written file and put together the report."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch

from calibration.dataset import Dataset
from ptq.audit import Audit, audit, file_bytes
from ptq.evaluate import Accuracy, evaluate
from ptq.lowering import Checks, Execution, stored_bytes
from ptq.model.capture import onnx_file
from ptq.model.graph import Model
from ptq.model.session import Session
from ptq.model.sites import Site
from ptq.pipeline.distributions import activations, points_by_part
from ptq.pipeline.made import Made
from ptq.pipeline.manifest import MANIFEST, digest, versions
from ptq.pipeline.memory import available_bytes
from ptq.pipeline.notes import data_warnings, notes_of
from ptq.pipeline.portability import portability
from ptq.pipeline.stages import Stages
from ptq.qtensor import QTensor
from ptq.report import FileReport, LayerReport, Portability, Report, SourceReport, warnings_of

EVALUATION_BATCH = 8
SAMPLES_WITHOUT_EVAL = 32
_PORTING_SECONDS = 1.0


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
        found = audit(reference.unrounded, written, feeds, made.target.checks, available_bytes())
        fmt = made.plan.activations
        shown = () if held is None else activations(made.model, made.lowered, made.executions, fmt, held)
        session = None if seen is None or found.absent else Session(reference.given)
        elsewhere, unsimulated = _portability(made, seen, session, written)
    accuracy = None if seen is None or session is None else _accuracy(made, seen, session, written, stages)
    layers = tuple(_layer(made, site, found) for site in made.model.sites)
    quantized = [layer for layer in layers if layer.execution != Execution.FLOAT.value]
    counts = {layer.site: math.prod(layer.shape) for layer in layers}
    weights = sum(counts[layer.site] for layer in quantized)
    bits = 8 * sum(layer.bytes for layer in quantized) / max(weights, 1)
    report = Report(
        source=source_report(made.source, made.model),
        title=made.plan.recipe.title,
        output=None if output is None else str(output),
        options=made.plan.recipe.as_options(),
        versions=versions(),
        data=None if made.data is None else made.data.describe(),
        data_sha256=json.loads(made.lowered.graph.metadata_props[MANIFEST])["data_sha256"],
        evaluation=None if made.evaluation is None else made.evaluation.describe(),
        layers=layers,
        bits_per_weight=bits,
        accuracy=accuracy,
        file=_file(made.source, found),
        stages=dict(stages.seconds),
        notes=(*notes_of(made, bits, accuracy), *unsimulated, *_not_run(found, written)),
        warnings=(),
        elsewhere=made.elsewhere,
        activations=shown,
        portability=elsewhere,
        unloaded=found.absent.get(written),
    )
    return dataclasses.replace(report, warnings=(*warnings_of(report, max_drop), *data_warnings(made)))


def _not_run(found: Audit, written: Path) -> Iterator[str]:
    """What is not known as the float model was not run; of the file itself there is a warning."""
    for path, why in found.absent.items():
        if path != written:
            yield f"the float model was not run, {why}: latency and accuracy were not measured"


def _portability(
    made: Made, seen: Dataset | None, reference: Session | None, written: Path
) -> tuple[Portability | None, tuple[str, ...]]:
    """What it answers without VNNI; nothing of weights that were made small for that, and of other targets."""
    in_int8 = {Execution.STATIC, Execution.DYNAMIC}.intersection(made.executions.values())
    wanted = in_int8 and not made.plan.recipe.portable and made.target.checks is Checks.OPTIMIZED
    if seen is None or reference is None or not wanted:
        return None, ()
    return portability(reference, written, seen, _PORTING_SECONDS)


def _accuracy(made: Made, seen: Dataset, reference: Session, written: Path, stages: Stages) -> Accuracy:
    data = seen if made.evaluation is not None else seen.take(SAMPLES_WITHOUT_EVAL)
    total = None if data.samples is None else -(-data.samples // EVALUATION_BATCH)
    with stages.stage("evaluate", total) as advance:

        def batches() -> Any:
            for batch in data.batches(EVALUATION_BATCH):
                yield batch
                advance()

        optimize = made.target.checks is Checks.OPTIMIZED
        return evaluate(reference, Session(written, optimize=optimize), batches(), made.metrics)


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
    weight, shown = done.outline, done.shown()
    return LayerReport(
        format=layer_format(weight),
        points=tuple(torch.bincount(weight.points)[1:].tolist()),
        mixes=weight.mixes,
        weight_sqnr_db=_decibel(shown.power, shown.noise),
        output_sqnr_db=_decibel(done.power, done.error) if done.measured else None,
        numbers=shown.numbers,
        points_map=points_by_part(weight.points),
        **common,
    )


def layer_format(weight: QTensor) -> str:
    """What a weight is stored in, in a few words: of several formats that which most rows begin with."""
    opening = [term for term, opens in zip(weight.terms, weight.opening, strict=True) if opens]
    return max(opening or weight.terms, key=lambda term: len(term.values)).describe()


def _file(source: Any, found: Audit) -> FileReport:
    """The files and their sessions; what was compared with may be another than the user's own file."""
    speed, own = found.latency, onnx_file(source)
    return FileReport(
        float_bytes=found.reference.file_bytes if own is None else file_bytes(own),
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


def _decibel(power: float, noise: float) -> float | None:
    return 10 * math.log10(power / noise) if power > 0 and noise > 0 else None
