"""A report on the terminal: dense, and the verdict last, so that it is what remains on the screen."""

from __future__ import annotations

from collections.abc import Iterator

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptq.report.console import megabytes, print_line, print_whole
from ptq.report.model import Report
from ptq.report.trials import render_trials

Row = tuple[str, str, str]


def render(report: Report, console: Console, *, layers: bool = False) -> None:
    """Print a report."""
    source = report.source
    size = f"{source.sites} layers, {_count(source.weights)} weights"
    print_line(console, f"model    {source.path or 'in memory'}: {source.kind}, {size}")
    if report.data is not None:
        print_line(console, f"data     {report.data}")
    if report.evaluation is not None:
        print_line(console, f"eval     {report.evaluation}")
    print_line(console, "stages   " + ", ".join(f"{name} {seconds:.1f} s" for name, seconds in report.stages.items()))
    console.print()
    if report.trials is not None:
        render_trials(report.trials, console)
    if layers:
        print_whole(console, _layer_table(report))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("", "FP32", report.title):
        table.add_column(Text(title), overflow="fold")
    for row in rows(report):
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
    for note in report.notes:
        print_line(console, f"note     {note}")
    told = None if report.portability is None else report.portability.told
    if told is not None and told not in report.warnings:
        print_line(console, f"note     {told}")
    for warning in report.warnings:
        print_line(console, f"WARNING  {warning}", "yellow")
    _, text = outcome(report)
    print_line(console, f"{'PASS' if report.passed else 'written':<8} {text}", "green" if report.passed else "")


def outcome(report: Report) -> tuple[str, str]:
    """The verdict, and where the file is with what is to be said of it."""
    where = report.output or "not written"
    untimed = [] if report.untimed is None else [f"not timed: {report.untimed}"]
    count = len(report.warnings)
    warned = [f"with {count} warning{'s' * (count > 1)}"] if count else []
    return report.verdict, ", ".join([where, *untimed, *warned])


def rows(report: Report) -> Iterator[Row]:
    """What was measured: its name, that of FP32, and that of the quantized model."""
    yield from _accuracy(report)
    yield from _file(report)
    yield from _layers(report)


def _accuracy(report: Report) -> Iterator[Row]:
    found = report.accuracy
    if found is None:
        return
    of = "samples" if found.positions in (None, found.samples) else "positions"
    few = f"   ({found.labelled} labelled {of}: one is {100 / max(found.labelled, 1):.2g} points)"
    for score in found.scores:
        yield score.name, score.text(score.reference), score.text(score.value) + few * (score.name == "top-1")
    cosine = [] if found.cosine is None else [("output cosine", "", f"{found.cosine:.4f}")]
    if not found.labelled:  # it is what decides
        yield from cosine
    if found.sqnr_db is not None:
        yield "output SQNR", "", f"{found.sqnr_db:.1f} dB"
    if found.agreement is not None:
        same = "" if found.labelled else " have the same largest number"
        yield "agreement", "", f"{100 * found.agreement:.1f} % of {found.positions or found.samples} {of}{same}"
    if found.labelled:
        yield from cosine


def _file(report: Report) -> Iterator[Row]:
    file = report.file
    ratio = file.float_bytes / max(file.bytes, 1)
    yield "file", megabytes(file.float_bytes), f"{megabytes(file.bytes)}   {ratio:.1f}x smaller"
    if file.latency_ratio is not None and file.ms is not None and file.float_ms is not None:
        speed = f"{1 / file.latency_ratio:.2f}x as fast, one thread, interleaved"
        yield "latency", f"{file.float_ms:.2f} ms", f"{file.ms:.2f} ms   {speed}"
    if file.float_load_seconds is not None and file.load_seconds is not None:
        yield "load", f"{1e3 * file.float_load_seconds:.0f} ms", f"{1e3 * file.load_seconds:.0f} ms"
    if file.peak_bytes is not None and file.float_peak_bytes is not None:
        yield "peak memory", megabytes(file.float_peak_bytes), megabytes(file.peak_bytes)


def _layers(report: Report) -> Iterator[Row]:
    histogram = ", ".join(f"{count:,} {mix}" for mix, count in report.mixes.items())
    points = f"   channels by points: {histogram}" if len(report.mixes) > 1 else ""
    yield "weights", "32 bits", f"{report.bits_per_weight:.2f} bits each{points}"
    if report.elsewhere is None and report.unloaded is None:
        integer = sum(layer.integer for layer in report.layers)
        kernels = ", ".join(f"{count} {name}" for name, count in report.kernels.items())
        yield "kernels", "", f"{integer} of {len(report.computing)} layers in int8 ({kernels})"
    else:
        written = sum(layer.execution != "float" for layer in report.computing)
        yield "kernels", "", f"not known; {written} of {len(report.computing)} layers are quantized"
    ranked = sorted(
        (layer for layer in report.layers if layer.output_sqnr_db is not None), key=lambda la: la.output_sqnr_db or 0
    )
    if ranked:
        yield "worst layers", "", ", ".join(f"{layer.site} {layer.output_sqnr_db:.1f} dB" for layer in ranked[:3])


def _layer_table(report: Report) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    right = ("bits", "bytes", "weight dB", "output dB")
    for title in ("layer", "method", "format", "points", *right, "kernel", "why"):
        table.add_column(title, justify="right" if title in right else "left", no_wrap=True)
    for layer in report.layers:
        cells = (
            layer.site,
            layer.method or "",
            layer.format,
            "/".join(map(str, layer.points)),
            f"{layer.bits_per_weight:.2f}",
            f"{layer.bytes:,}",
            _decibel(layer.weight_sqnr_db),
            _decibel(layer.output_sqnr_db),
            layer.kernel or "",
            layer.note or layer.rule or "",
        )
        table.add_row(*(Text(cell) for cell in cells))
    return table


def _decibel(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _count(number: int) -> str:
    return f"{number / 1e6:.1f} M" if number >= 1e6 else f"{number:,}"
