"""The page of the methods benchmark: scores by bits at a glance, every figure of every point, and what was refused."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, Final

import method_results
import runs
from method_points import BITS, METHODS
from method_results import DONE, LATE, Result

FINDINGS: Final = "## What multipoint wins and loses"
"""The heading of what is written by hand."""

_USELESS: Final = 10_000.0
"""A perplexity of which only the size is of interest."""

NAMES: Final = {"top1": "top-1", "cosine": "cosine", "perplexity": "perplexity"}

COLUMNS: Final = (
    *("model", "method", "nominal bits", "bits", "MB", "top-1", "cosine", "perplexity", "agreement", "SQNR dB"),
    *("of FP32's time", "quantized in s", "peak GB"),
)

NOTES: Final = """\
Each line is a `ptq quantize` in a process of its own, with all layers quantized and embedding tables in int8. *Nominal
bits* are those of the numbers, and a quarter more where a method has ways to spend it; *bits* are those stored per
weight, scales and all else included, of layers that compute and tables alike. Top-1, cosine, agreement and SQNR are of
the file's outputs in ONNX Runtime, against labels or against FP32's; agreement is about the largest output, which of
embeddings says little. Time is that of one sample as a part of FP32's, interleaved, one thread, median; quantization is
without audit and evaluation, peak memory that of the whole command.
"""


def render(results: Iterable[Result]) -> str:
    """A markdown page of the results."""
    kept = method_results.latest(results)
    tasks = method_results.by_task(kept)
    parts = ["# Every method", "", f"{method_results.made(kept)}.", "", NOTES]
    for task, found in tasks.items():
        parts += [f"## {task}: {_score_name(found)} by nominal bits", "", *_overview(found), ""]
    parts += ["## Every point", "", runs.head(COLUMNS)]
    for task, found in tasks.items():
        parts += [*_float_line(task, found), *(_line(each) for each in sorted(found, key=_order))]
    parts += ["", *_without_figures(kept), *_peers()]
    return "\n".join(parts)


def findings(page: str) -> str:
    """What was written by hand below the tables of a page, to be kept when they are written anew."""
    _, marker, text = page.partition(FINDINGS)
    return f"\n{marker}{text}" if marker else ""


@cache
def peers() -> Mapping[str, Any]:
    """What other tools came to on the same models and data."""
    found: Mapping[str, Any] = json.loads((Path(__file__).parent / "peers.json").read_text(encoding="utf-8"))
    return found


def shown(name: str, value: float | None) -> str:
    """A score as people write it."""
    if value is None:
        return ""
    if name == "perplexity":
        return f"{value:.2f}" if value < _USELESS else f"{value:.0e}"
    return f"{100 * value:.1f} %" if name == "top1" else f"{value:.4f}"


def _score_name(results: Sequence[Result]) -> str:
    told = method_results.of_float(results)
    if told is None:
        return "nothing measured"
    return f"{NAMES[told[0]]}, FP32 {shown(told[0], told[2])}"


def _overview(results: Sequence[Result]) -> list[str]:
    cells = {(each.key.method, each.key.bits): _cell(each) for each in results}
    methods = sorted({method for method, _ in cells}, key=_rank)
    lines = [runs.row([method, *(cells.get((method, bits), "") for bits in BITS)]) for method in methods]
    return [runs.head(["method", *(f"{bits:g}" for bits in BITS)]), *lines]


def _cell(result: Result) -> str:
    if result.outcome != DONE:
        return result.outcome
    return shown(method_results.metric(result.figures), method_results.score(result)) or "no number"


def _rank(method: str) -> tuple[int, str]:
    """As in the plan, then what is no longer in it."""
    return METHODS.index(method) if method in METHODS else len(METHODS), method


def _order(result: Result) -> tuple[tuple[int, str], float]:
    return _rank(result.key.method), -result.key.bits


def _float_line(task: str, results: Sequence[Result]) -> list[str]:
    told = method_results.of_float(results)
    if told is None:
        return []
    name, size, value = told
    scores = [shown(each, value) if each == name else "" for each in NAMES]
    return [runs.row([task, method_results.FLOAT, "32", "32", f"{size:.2f}", *scores, "", "", "1.00x", "", ""])]


def _line(result: Result) -> str:
    key, figures = result.key, result.figures
    start = [key.task, key.method, f"{key.bits:g}"]
    if result.outcome != DONE:
        said = str(result.why) if result.outcome == LATE else result.outcome
        return runs.row([*start, said, *[""] * (len(COLUMNS) - len(start) - 1)])

    def cell(name: str, form: str, unit: float = 1.0) -> str:
        value = figures.get(name)
        return "" if value is None else f"{value * unit:{form}}"

    scores = [shown(name, figures.get(name)) for name in NAMES]
    ratio = cell("latency_ratio", ".2f")
    return runs.row(
        [
            *(*start, cell("bits", ".2f"), cell("bytes", ".2f", 1e-6), *scores),
            *(shown("top1", figures.get("agreement")), cell("sqnr_db", ".1f"), f"{ratio}x" if ratio else ""),
            *(cell("quantize_seconds", ".1f"), cell("peak_bytes", ".2f", 1e-9)),
        ]
    )


def _without_figures(results: Iterable[Result]) -> list[str]:
    """Why points have none, those of one method with one reason together."""
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for each in results:
        if each.outcome != DONE:
            what = (each.key.task, each.key.method, f"{each.outcome}: {each.why}")
            reasons.setdefault(what, []).append(f"{each.key.bits:g}")
    if not reasons:
        return []
    lines = [f"- {task}, {method}, {', '.join(bits)}: {why}" for (task, method, why), bits in reasons.items()]
    return ["## Without figures", "", *lines, ""]


def _peers() -> list[str]:
    found = peers()
    columns = ("model", "tool", "MB", "top-1", "cosine", "agreement", "SQNR dB", "of FP32's time")
    lines = [
        runs.row(
            [
                *(each["model"], each["tool"], f"{each['mb']:.2f}", shown("top1", each.get("top1"))),
                *(shown("cosine", each.get("cosine")), shown("top1", each.get("agreement"))),
                *(f"{each['sqnr_db']:.1f}" if "sqnr_db" in each else "", f"{1 / each['speed']:.2f}x"),
            ]
        )
        for each in found["points"]
    ]
    origin = f"{found['source']}: {found['versions']}."
    without = ["Without figures:", "", *(f"- {each}" for each in found["without"]), ""]
    return ["## Other tools", "", origin, "", runs.head(columns), *lines, "", *without]
