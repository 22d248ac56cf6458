"""What is to be warned of: each with a number and a way out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ptq.evaluate import Accuracy, Sense
from ptq.report.comparison import ComparedFile
from ptq.report.model import LayerReport, Report
from ptq.report.portability import Portability

LEAST_PARITY_DB = 15.0
"""Optimized against unoptimized output; rounding flips alone bring deep networks near 25 dB."""

LEAST_WEIGHT_DB = 1.0
"""Of weights against what they became, which is 0 where all became zero; two bits leave them 5 and more."""

MEANT_INTEGER = frozenset({"static", "dynamic", "blocks"})
"""Executions that are worth their loss only in integer kernels."""

NOISE = 1.05
"""Above this part of FP32's time a file is slower; what is below may be the neighbours."""

COSINE = "1 - cosine"
"""What a drop is measured by where there are no labels."""

EXACTNESS = 1e-9
"""By so much a drop may be above a bound for being a difference of rounded fractions."""


def warnings_of(report: Report, max_drop: float) -> tuple[str, ...]:
    """The warnings; `max_drop` is a fraction of the samples."""
    return tuple(_warnings(report, max_drop))


def _warnings(report: Report, max_drop: float) -> Iterator[str]:
    quantized = report.quantized
    if not quantized:
        yield f"0 of {len(report.layers)} layers are quantized; give a narrower --keep-float"
    if report.unloaded is not None:
        yield f"the file was not loaded, {report.unloaded}; check it where there is more"
    meant = [layer for layer in quantized if layer.execution in MEANT_INTEGER]
    slow = [layer for layer in meant if not layer.integer] if report.unloaded is None else []
    if slow:
        yield f"{len(slow)} of {len(meant)} layers run in float although quantized: {_named(slow)}"
    seized = [layer for layer in report.layers if layer.execution == "float" and layer.integer]
    if seized:
        yield f"ONNX Runtime quantizes what was to stay float: {_named(seized)}; keep its neighbours float too"
    lost = [layer for layer in quantized if layer.weight_sqnr_db is not None and layer.weight_sqnr_db < LEAST_WEIGHT_DB]
    if lost:
        shown = ", ".join(layer.site for layer in lost[:3])
        yield f"{len(lost)} of {len(quantized)} layers have nothing left of their weights: {shown}; give another format"
    yield from _of_file(report, integer=bool(meant))
    yield from _of_accuracy(report, max_drop)
    yield from _of_others(report.portability, report.accuracy, max_drop)


def _of_file(report: Report, *, integer: bool) -> Iterator[str]:
    file = report.file
    if file.latency_ratio is not None and file.latency_ratio > NOISE:
        floats = [layer for layer in report.computing if not layer.integer]
        advice = "keep FP32" if not integer else "try --keep-float for small layers"
        yield _slower(file.latency_ratio, len(floats), len(report.computing), advice)
    bound = report.options.get("max_latency")
    if bound is not None and file.latency_ratio is not None and file.latency_ratio > bound * NOISE:
        yield f"{file.latency_ratio:.2f}x FP32's time, which is over --max-latency {bound:g}; give less, or try again"
    if file.bytes >= file.float_bytes:
        yield _not_smaller(file.bytes, file.float_bytes)
    if file.parity_db is not None and file.parity_db < LEAST_PARITY_DB:
        yield (
            f"optimized and unoptimized runs differ, {file.parity_db:.1f} dB; "
            f"report it, or leave layers out by --keep-float"
        )


def comparison_warnings(file: ComparedFile, reference: ComparedFile, max_drop: float) -> tuple[str, ...]:
    """Those of a file that any tool may have made."""
    found = []
    if file.timings and file.timings[0].ratio > NOISE:
        floats = file.layers - file.integer
        advice = "it decodes weights at every call" if file.decoded else "keep FP32"
        found.append(_slower(file.timings[0].ratio, floats, file.layers, advice))
    if file.bytes >= reference.bytes:
        found.append(_not_smaller(file.bytes, reference.bytes))
    if file.accuracy is not None:
        found += accuracy_warnings(file.accuracy, max_drop)
    return (*found, *_of_others(file.portability, file.accuracy, max_drop))


def _of_others(port: Portability | None, accuracy: Accuracy | None, max_drop: float) -> Iterator[str]:
    """That of other processors, where more is lost there than is accepted."""
    classes = accuracy is not None and bool(accuracy.labelled)
    if port is not None and port.told is not None and port.exceeds(max_drop, classes=classes):
        yield port.told


def _slower(ratio: float, floats: int, layers: int, advice: str) -> str:
    because = f": {floats} of {layers} layers run in float" if floats else ""
    return f"slower than FP32, {ratio:.2f}x its time{because}; {advice}"


def _not_smaller(size: int, float_size: int) -> str:
    return f"the file is not smaller: {size / 1e6:.2f} MB, FP32 {float_size / 1e6:.2f} MB; keep FP32"


def drops(found: Accuracy) -> Mapping[str, float]:
    """What is lost against the float model, as fractions by the measure; empty where nothing is finite.

    Those of the scores that decide, or without labels 1 - cosine of the outputs.
    """
    losses = ((score.name, score.loss) for score in found.scores if score.decides)
    made = {name: loss for name, loss in losses if loss is not None}
    if not made and found.cosine is not None:
        made[COSINE] = 1 - found.cosine
    return made


def _of_accuracy(report: Report, max_drop: float) -> Iterator[str]:
    if report.accuracy is not None:
        yield from accuracy_warnings(report.accuracy, max_drop)


def accuracy_warnings(found: Accuracy, max_drop: float) -> Iterator[str]:
    """Those of outputs and scores; `max_drop` is a fraction."""
    if found.nonfinite:
        yield f"{found.nonfinite} outputs are NaN or Inf; check the calibration data"
    advice = "give more bits, numbers that lie better as --weights lloyd4x2, or let --method auto choose"
    most = 100 * max_drop
    for measure, drop in drops(found).items():
        if drop <= max_drop + EXACTNESS:
            continue
        score = found.score(measure)
        if score is None:
            yield f"outputs have cosine {1 - drop:.4f} with FP32, less than {1 - max_drop:.4f} (no labels); {advice}"
        elif score.value is None:
            yield f"{measure} is no finite number; {advice}"
        elif score.sense == Sense.FRACTION.value:
            yield f"{measure} drops by {100 * drop:.1f} points, more than {most:.1f}; {advice}"
        else:
            changes = "rises" if score.sense == Sense.LESS.value else "falls"
            yield f"{measure} {changes} by {100 * drop:.1f} %, more than {most:.1f}; {advice}"


def _named(layers: list[LayerReport]) -> str:
    shown = ", ".join(f"{layer.site} ({layer.note or layer.kernel})" for layer in layers[:3])
    return f"{shown}, …" if len(layers) > 3 else shown
