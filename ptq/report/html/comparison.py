"""The page of a comparison."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from ptq.evaluate import Sense
from ptq.report.comparing import outcome, setting, short_names
from ptq.report.comparison import ComparedFile, Comparison
from ptq.report.html.charts import Spot, trade_off
from ptq.report.html.page import Cell, Chart, Table, page

Named = Sequence[tuple[str, ComparedFile]]


def comparison_page(found: Comparison, command: str | None = None) -> str:
    """The HTML of a comparison; `command` is the command line that makes it again."""
    names = short_names([file.path for file in found.files])
    named = list(zip(names, found.files, strict=True))
    sound = [(name, file) for name, file in named if not file.failure]
    status, _, text = outcome(found, names).partition(" ")
    warnings = [
        {"status": file.verdict, "file": name, "text": said}
        for name, file in named
        for said in ([file.failure] if file.failure else file.warnings)
    ]
    origin = [("data", found.data), ("machine", found.machine), ("accepted drop", f"{found.max_drop:g}")]
    files = [("float model", found.reference), *named]
    origin += [(name, f"{file.path}, SHA-256 {file.sha256 or 'not read'}") for name, file in files]
    return page(
        "comparison.html",
        title=f"{found.reference.path} compared",
        heading=f"{found.reference.path} and {len(named)} quantized file{'s' * (len(named) != 1)}",
        verdict={"status": status if found.passed else "WARNING", "text": text.strip()},
        warnings=warnings + [{"status": "note", "file": "all", "text": note} for note in found.notes],
        charts=_charts(found.reference, sound),
        tables=[_files(found.reference, sound), _kernels([("FP32", found.reference), *sound])] if sound else [],
        origin=origin,
        versions=found.versions,
        command=command,
    )


def _charts(reference: ComparedFile, sound: Named) -> list[Chart]:
    """A gain against bytes, and against the latency of the first setting."""
    gain = _gain(sound)
    if gain is None:
        return []
    title, rising, values, of_float = gain
    found = []
    for x, cost in (("MB", _megabytes), ("ms", _milliseconds)):
        spots = [
            Spot(name, at, value, file.verdict, f"{value:.4g} {title}, {at:.4g} {x}")
            for (name, file), value in zip([*sound, ("FP32", reference)], [*values, of_float], strict=True)
            if value is not None and (at := cost(file)) is not None
        ]
        spots[-1:] = [replace(spot, verdict="FP32") if spot.name == "FP32" else spot for spot in spots[-1:]]
        if spots:
            found.append(trade_off(spots, x, title, rising=rising))
    return found


def _megabytes(file: ComparedFile) -> float | None:
    return file.bytes / 1e6


def _milliseconds(file: ComparedFile) -> float | None:
    return file.timings[0].ms if file.timings else None


def _gain(sound: Named) -> tuple[str, bool, list[float | None], float | None] | None:
    """What is to be gained: its title, whether more is better, that of each file and of the float model.

    The first score that decides, or without labels the SQNR of the output.
    """
    accuracies = [file.accuracy for _, file in sound if file.accuracy is not None]
    if not accuracies:
        return None
    score = next((score for score in accuracies[0].scores if score.decides), None)
    if score is None:
        return "SQNR in dB", True, [accuracy.sqnr_db for accuracy in accuracies], None
    percent = score.sense == Sense.FRACTION.value
    factor = 100 if percent else 1
    values = [each.value for accuracy in accuracies if (each := accuracy.score(score.name)) is not None]
    return (
        f"{score.name}{' in %' if percent else ''}",
        score.sense != Sense.LESS.value,
        [None if value is None else factor * value for value in values],
        None if score.reference is None else factor * score.reference,
    )


def _files(reference: ComparedFile, sound: Named) -> Table:
    first = sound[0][1].accuracy
    scores = [] if first is None else [score.name for score in first.scores]
    timings = [title for each in reference.timings for title in (f"ms, {setting(each)}", "p95", "of FP32's")]
    close = ["agreement", "SQNR dB", "cosine", "KL"]
    numbers = [*scores, *close, "MB", "bits", *timings, "load ms", "peak MB", "in int8"]
    rows = [[Cell("FP32"), Cell(""), *_of_float(first), *[Cell("")] * len(close), *_costs(reference, reference)]]
    rows += [
        [Cell(name), Cell(file.verdict, status=file.verdict), *_accuracy(file), *_costs(file, reference)]
        for name, file in sound
    ]
    return Table("Files", ["file", "verdict", *numbers], rows, frozenset(numbers))


def _of_float(accuracy: Any) -> Iterator[Cell]:
    for score in () if accuracy is None else accuracy.scores:
        yield Cell(score.text(score.reference), score.reference)


def _accuracy(file: ComparedFile) -> Iterator[Cell]:
    found = file.accuracy
    if found is None:
        return
    for score in found.scores:
        yield Cell(score.text(score.value), score.value)
    yield _cell(found.agreement, "{:.1%}")
    equal = found.sqnr_db is None and not found.nonfinite
    yield Cell("equal", 1e9) if equal else _cell(found.sqnr_db, "{:.1f}")
    yield _cell(found.cosine, "{:.4f}")
    yield _cell(found.kl, "{:.2g}")


def _costs(file: ComparedFile, reference: ComparedFile) -> Iterator[Cell]:
    yield _cell(file.bytes / 1e6, "{:.2f}")
    yield _cell(file.bits_per_weight, "{:.2f}")
    for timing in file.timings:
        yield _cell(timing.ms, "{:.3g}")
        yield _cell(timing.p95_ms, "{:.3g}")
        yield _cell(None if file is reference else timing.ratio, "{:.2f}x")
    yield _cell(None if file.load_seconds is None else 1e3 * file.load_seconds, "{:.0f}")
    yield _cell(None if file.peak_bytes is None else file.peak_bytes / 1e6, "{:.1f}")
    yield Cell(f"{file.integer} of {file.layers}", file.integer)


def _kernels(files: Named) -> Table:
    rows = [
        [Cell(name), Cell(kernel), Cell(what), _cell(count, "{:d}")]
        for name, file in files
        for what, kernels in (("weights", file.kernels), ("activations alone", file.others))
        for kernel, count in kernels.items()
    ]
    return Table("Kernels that ran", ["file", "kernel", "computes with", "layers"], rows, frozenset({"layers"}))


def _cell(value: float | None, form: str) -> Cell:
    return Cell("") if value is None else Cell(form.format(value), value)
