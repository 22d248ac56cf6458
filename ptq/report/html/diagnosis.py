"""The page of a diagnosis: what layers cost, and what was tried."""

from __future__ import annotations

from dataclasses import replace

from ptq.evaluate import Accuracy
from ptq.report.diagnosis import Blame, Diagnosis
from ptq.report.html.comparison import sweep_page
from ptq.report.html.layers import bars
from ptq.report.html.page import Cell, Chart, Page, Table

_MOST_BARS = 60


def diagnosis_page(found: Diagnosis) -> Page:
    """What layers cost, those first that cost most, and under it the comparison of what was tried."""
    tried = sweep_page(found.tried)
    model = found.tried.comparison.reference.path
    whole = "equal to FP32" if found.whole.sqnr_db is None else f"{found.whole.sqnr_db:.1f} dB"
    helps = "".join(f"; what helps: {remedy.describe()}" for remedy in found.remedies)
    worst = ", ".join(layer.site for layer in found.layers[:3])
    return replace(
        tried,
        title=f"{model} diagnosed",
        heading=f"{model}, {found.title}",
        outcome=f"{tried.outcome}; as it is {whole}, and {worst} cost most{helps}",
        charts=[*_charts(found), *tried.charts],
        tables=[_layers(found), *tried.tables],
    )


def _charts(found: Diagnosis) -> list[Chart]:
    """Noise alone and gain without, of the layers that cost most."""
    shown = found.layers[:_MOST_BARS]
    alone = [
        {"layer": layer.site, "y": layer.alone.sqnr_db, "part": ""}
        for layer in shown
        if layer.alone.sqnr_db is not None
    ]
    gains = [
        {"layer": layer.site, "y": gain, "part": ""} for layer in shown if (gain := _gain(layer, found)) is not None
    ]
    few = f", of the {len(shown)} that cost most" if len(shown) < len(found.layers) else ""
    made = []
    if alone:
        caption = f"The output with one layer quantized alone{few}: the lower, the more the layer costs."
        made.append(bars(alone, "output SQNR in dB, alone", caption, order="the worst first"))
    if gains:
        caption = f"What the output gains when one layer alone stays float{few}."
        made.append(bars(gains, "gain in dB, without it", caption, order="the worst first"))
    return made


def _gain(layer: Blame, found: Diagnosis) -> float | None:
    if layer.without.sqnr_db is None or found.whole.sqnr_db is None:
        return None
    return layer.without.sqnr_db - found.whole.sqnr_db


def _layers(found: Diagnosis) -> Table:
    names = [score.name for score in found.whole.scores if score.decides]
    lost = [f"{name} lost" for name in names]
    numbers = ("alone dB", *lost, "without dB", "gain dB", "kB more in float", "ms", "ms in float")
    rows = [
        [
            Cell(layer.site),
            Cell(layer.op),
            Cell(layer.format),
            _decibels(layer.alone),
            *(_loss(layer.alone, name) for name in names),
            _decibels(layer.without),
            Cell.of(_gain(layer, found), "{:+.2f}"),
            Cell.of((layer.float_bytes - layer.bytes) / 1e3, "{:.1f}"),
            Cell.of(layer.ms, "{:.3f}"),
            Cell.of(layer.float_ms, "{:.3f}"),
        ]
        for layer in found.layers
    ]
    return Table("Layers", ("layer", "op", "format", *numbers), rows, frozenset(numbers))


def _decibels(found: Accuracy) -> Cell:
    return Cell.of(found.sqnr_db, "{:.1f}")


def _loss(found: Accuracy, name: str) -> Cell:
    score = found.score(name)
    return Cell.of(None if score is None or score.loss is None else 100 * score.loss, "{:+.1f} %")
