"""A comparison on the terminal: how accurate, what it costs, and what to make of it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptq.audit import Timing
from ptq.report.comparison import ComparedFile, Comparison
from ptq.report.console import megabytes, milliseconds, print_line, print_whole

_MOST_NAMED = 3
_STYLES = {"PASS": "green", "WARNING": "yellow", "FAIL": "red"}


def render_comparison(found: Comparison, console: Console) -> None:
    """Print a comparison."""
    print_line(console, f"model    {found.reference.path}")
    print_line(console, f"data     {found.data}")
    print_line(console, f"machine  {found.machine}, ONNX Runtime {found.versions['onnxruntime']}")
    names = short_names([file.path for file in found.files])
    sound = [(name, file) for name, file in zip(names, found.files, strict=True) if not file.failure]
    if sound:
        print_whole(console, _accuracies(sound))
    print_whole(console, _costs([("FP32", found.reference), *sound]))
    if found.reference.timings:
        print_whole(console, _times([("FP32", found.reference), *sound]))
    for note in (*found.notes, *unportable(found, names)):
        print_line(console, f"note     {note}")
    for name, file in zip(names, found.files, strict=True):
        for said in [file.failure] if file.failure else file.warnings:
            print_line(console, f"{file.verdict:<8} {name}: {said}", _STYLES[file.verdict])
    print_line(console, outcome(found, names))


def _accuracies(files: Sequence[tuple[str, ComparedFile]]) -> Table:
    first = files[0][1].accuracy
    scores = [] if first is None else list(first.scores)
    table = _table("", *(score.name for score in scores), "agreement", "SQNR", "cosine", "KL", "no VNNI", "verdict")
    if scores:
        table.add_row("FP32", *(Text(score.text(score.reference)) for score in scores))
    for name, file in files:
        found = file.accuracy
        if found is None:
            continue
        table.add_row(
            Text(name),
            *(Text(score.text(score.value)) for score in found.scores),
            "" if found.agreement is None else f"{100 * found.agreement:.1f} %",
            _decibels(found.sqnr_db, equal=not found.nonfinite),
            "" if found.cosine is None else f"{found.cosine:.4f}",
            "" if found.kl is None else f"{found.kl:.2g}",
            "" if file.portability is None else _decibels(file.portability.sqnr_db, equal=True),
            Text(file.verdict, _STYLES[file.verdict]),
        )
    return table


def _decibels(value: float | None, *, equal: bool) -> str:
    return f"{value:.1f} dB" if value is not None else "equal" if equal else ""


def _costs(files: Sequence[tuple[str, ComparedFile]]) -> Table:
    reference = files[0][1]
    table = _table("", "file", "", "bits", "load", "peak", "in int8")
    for name, file in files:
        smaller = reference.bytes / max(file.bytes, 1)
        table.add_row(
            Text(name),
            megabytes(file.bytes),
            "" if smaller == 1 else f"{smaller:.2f}x smaller" if smaller > 1 else f"{1 / smaller:.2f}x larger",
            "" if file.bits_per_weight is None else f"{file.bits_per_weight:.2f}",
            "" if file.load_seconds is None else f"{1e3 * file.load_seconds:.0f} ms",
            "" if file.peak_bytes is None else megabytes(file.peak_bytes),
            f"{file.integer} of {file.layers}",
        )
    return table


def _times(files: Sequence[tuple[str, ComparedFile]]) -> Table:
    """Medians with 95th percentiles, and in relation to the float model."""
    reference = files[0][1]
    table = _table("ms, median (p95)", *(title for each in reference.timings for title in (setting(each), "")))
    for name, file in files:
        cells = [
            cell
            for timing in file.timings
            for cell in (
                f"{milliseconds(timing.ms)} ({milliseconds(timing.p95_ms)})",
                "" if file is reference else f"{timing.ratio:.2f}x",
            )
        ]
        table.add_row(Text(name), *cells)
    return table


def setting(timing: Timing) -> str:
    """What was timed, in a few words."""
    threads = "1 thread" if timing.threads == 1 else f"{timing.threads} threads"
    return threads if timing.batch == 1 else f"{threads}, batch {timing.batch}"


def _table(first: str, *columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column(first, no_wrap=True)
    for title in columns:
        table.add_column(Text(title), justify="right", no_wrap=True)
    return table


def unportable(found: Comparison, names: Sequence[str]) -> Iterator[str]:
    """Which files answer otherwise without VNNI, where that is no warning; of many, the one that does so most."""
    unlike = [
        (name, file.portability)
        for name, file in zip(names, found.files, strict=True)
        if file.portability is not None and file.portability.told is not None
        if file.portability.told not in file.warnings
    ]
    if len(unlike) <= _MOST_NAMED:
        yield from (f"{name}: {port.told}" for name, port in unlike)
        return
    name, port = max(unlike, key=lambda each: each[1].lost_db)
    yield f"{len(unlike)} files answer otherwise without VNNI, as the column says; most of all {name}: {port.told}"


def outcome(found: Comparison, names: Sequence[str]) -> str:
    """What to make of it, in a line; `names` are those of the files."""
    named = dict(zip((file.path for file in found.files), names, strict=True))
    passed = found.passed
    if not passed or found.smallest is None:
        return f"WARNING  none of {len(found.files)} passes: keep FP32, or see the warnings"
    best = [f"the smallest is {named[found.smallest.path]}"]
    if found.fastest is not None:
        best.append(f"the fastest {named[found.fastest.path]}")
    return f"PASS     {len(passed)} of {len(found.files)} files, of those that pass {', '.join(best)}"


def short_names(paths: Sequence[str]) -> list[str]:
    """The names of files, with as much of their folders as tells them apart."""
    names = [Path(path).name for path in paths]
    if len({*names}) == len(names):
        return names
    shared = os.path.commonpath([str(Path(path).absolute().parent) for path in paths])
    return [os.path.relpath(Path(path).absolute(), shared) for path in paths]
