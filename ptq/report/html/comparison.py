"""The page of a comparison, and of a sweep, which is one of files by a grid."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from ptq.report.comparing import outcome, setting, short_names, unportable
from ptq.report.comparison import ComparedFile, Comparison
from ptq.report.console import milliseconds
from ptq.report.html.charts import Spot, trade_off
from ptq.report.html.page import Cell, Chart, Page, Remark, Table
from ptq.report.sweep import Sweep

Named = Sequence[tuple[str, ComparedFile]]


def sweep_page(found: Sweep) -> Page:
    """What a sweep shows."""
    page = comparison_page(found.comparison)
    knees = [("knee by size", found.knee_by_size), ("knee by latency", found.knee_by_latency)]
    named = [(name, point.command or point.name) for name, point in knees if point is not None]
    rows = [
        [Cell(point.name), Cell(f"refused: {point.refused}" if point.refused else point.command or "made")]
        for point in found.points
    ]
    made_by = Table("Command lines", ["point", "made by"], rows, frozenset())
    return replace(page, tables=[*page.tables, made_by], origin=[*page.origin, *named])


def comparison_page(found: Comparison) -> Page:
    """What a comparison shows."""
    names = short_names([file.path for file in found.files])
    named = list(zip(names, found.files, strict=True))
    sound = [(name, file) for name, file in named if not file.failure]
    status, _, text = outcome(found, names).partition(" ")
    remarks = [
        Remark(said, file.verdict, name)
        for name, file in named
        for said in ([file.failure] if file.failure else file.warnings)
    ]
    origin = [("data", found.data), ("machine", found.machine), ("accepted drop", f"{found.max_drop:g}")]
    files = [("float model", found.reference), *named]
    origin += [(name, f"{file.path}, SHA-256 {file.sha256 or 'not read'}") for name, file in files]
    return Page(
        title=f"{found.reference.path} compared",
        heading=f"{found.reference.path} and {len(named)} quantized file{'s' * (len(named) != 1)}",
        status=status if found.passed else "WARNING",
        outcome=text.strip(),
        remarks=[*remarks, *map(Remark, (*found.notes, *unportable(found, names)))],
        charts=_charts(found, sound),
        tables=[_files(found.reference, sound), _kernels([("FP32", found.reference), *sound])] if sound else [],
        origin=origin,
        versions=found.versions,
    )


def _charts(found: Comparison, sound: Named) -> list[Chart]:
    """What is gained against bytes, by scores and by closeness, and against the latency of the first setting."""
    gain = found.gain
    if gain is None:
        return []
    names = {file.path: name for name, file in sound}
    size, time = (None if each is None else names[each.path] for each in (found.knee_by_size, found.knee_by_latency))
    pairs = [("MB", _megabytes, gain, size), ("ms", _milliseconds, gain, time)]
    if gain.title != found.closeness.title:
        pairs.insert(1, ("MB", _megabytes, found.closeness, size))
    made = []
    for x, cost, what, ring in pairs:
        spots = [
            Spot(name, at, value, verdict, f"{value:.4g} {what.title}, {at:.4g} {x}")
            for name, file, verdict in (
                *((name, file, file.verdict) for name, file in sound),
                ("FP32", found.reference, "FP32"),
            )
            if (value := what.of.get(file.path) if verdict != "FP32" else what.reference) is not None
            and (at := cost(file)) is not None
        ]
        if spots:
            made.append(trade_off(spots, x, what, ring))
    return made


def _megabytes(file: ComparedFile) -> float | None:
    return file.bytes / 1e6


def _milliseconds(file: ComparedFile) -> float | None:
    return file.timings[0].ms if file.timings else None


def _files(reference: ComparedFile, sound: Named) -> Table:
    first = sound[0][1].accuracy
    scores = [] if first is None else [score.name for score in first.scores]
    timings = [title for each in reference.timings for title in (f"ms, {setting(each)}", "p95", "of FP32's")]
    close = ["agreement", "SQNR dB", "cosine", "KL", "no VNNI dB"]
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
    yield Cell("") if found.agreement is None else Cell(f"{100 * found.agreement:.1f} %", found.agreement)
    equal = found.sqnr_db is None and not found.nonfinite
    yield Cell("equal", 1e9) if equal else Cell.of(found.sqnr_db, "{:.1f}")
    yield Cell.of(found.cosine, "{:.4f}")
    yield Cell.of(found.kl, "{:.2g}")
    yield Cell.of(None if file.portability is None else file.portability.sqnr_db, "{:.1f}")


def _costs(file: ComparedFile, reference: ComparedFile) -> Iterator[Cell]:
    yield Cell.of(file.bytes / 1e6, "{:.2f}")
    yield Cell.of(file.bits_per_weight, "{:.2f}")
    for timing in file.timings:
        yield Cell(milliseconds(timing.ms), timing.ms)
        yield Cell(milliseconds(timing.p95_ms), timing.p95_ms)
        yield Cell.of(None if file is reference else timing.ratio, "{:.2f}x")
    yield Cell.of(None if file.load_seconds is None else 1e3 * file.load_seconds, "{:.0f}")
    yield Cell.of(None if file.peak_bytes is None else file.peak_bytes / 1e6, "{:.1f}")
    yield Cell(f"{file.integer} of {file.layers}", file.integer)


def _kernels(files: Named) -> Table:
    rows = [
        [Cell(name), Cell(kernel), Cell(what), Cell.of(count, "{:d}")]
        for name, file in files
        for what, kernels in (("weights", file.kernels), ("activations alone", file.others))
        for kernel, count in kernels.items()
    ]
    return Table("Kernels that ran", ["file", "kernel", "computes with", "layers"], rows, frozenset({"layers"}))
