"""Accuracy against the size of the file: a curve a method, the points of other tools, and FP32 as a line."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, Final

import method_results
import method_table
from method_points import METHODS
from method_results import DONE, Result
from plotting import pyplot, save

_COLOURS: Final = {
    "multipoint": "#D55E00",
    "rtn": "#7F7F7F",
    "gptq": "#0072B2",
    "gpfq": "#56B4E9",
    "adaround": "#009E73",
    "hqq": "#B8860B",
    "ocs": "#CC79A7",
    "mixed": "#000000",
}
"""One a method, told apart with any colour vision (Okabe and Ito's, the yellow darker, and a grey)."""

_MARKERS: Final = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
_DASHES: Final = ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2)))
_SQNR: Final = "sqnr_db"
_BELOW_FLOAT: Final = {"top1": 0.30, "cosine": 0.12}
"""How far below FP32 the axis reaches: what is worse is of no use, and would squeeze the rest together."""
_TIMES_FLOAT: Final = 3.0
"""Of the perplexity, as many times worse."""
_LEAST_DB: Final = 0.0
_NEAR: Final = 20
"""Pixels between points that have one label."""
_WIDE: Final = 150
"""Letters of a line over all of the figure."""


@dataclass(frozen=True)
class _Panel:
    """One quantity of one model: how far the axis reaches, and whether more is better."""

    axes: Any
    name: str
    label: str
    best: float | None
    """That of FP32."""
    worst: float

    @property
    def upside_down(self) -> bool:
        """Whether less is better."""
        return self.name == "perplexity"

    def shows(self, value: float) -> bool:
        """Whether a value is within the axis."""
        return value <= self.worst if self.upside_down else value >= self.worst


def draw(results: Iterable[Result], stem: Path) -> None:
    """Write `stem.png` and `stem.svg`: a row a model, its score on the left, the SQNR of its output on the right."""
    tasks = method_results.by_task(method_results.latest(results))
    told = {name: method_results.of_float(found) for name, found in tasks.items()}
    shown = {name: float_ for name, float_ in told.items() if float_ is not None}
    rows = len(shown) or 1
    figure, grid = pyplot().subplots(rows, 2, figsize=(15, 4.4 * rows + 2.4), squeeze=False, layout="constrained")
    for (task, (metric, size, value)), (left, right) in zip(shown.items(), grid, strict=False):
        scores = _scores(left, metric, value)
        peers = _ordered(scores, task)
        _draw(scores, task, tasks[task], size, peers)
        _draw(_Panel(right, _SQNR, "output SQNR, dB", None, _LEAST_DB), task, tasks[task], size, peers)
        _name(scores, peers)
    named = {line.get_label(): line for axes in grid.flat for line in axes.get_lines() if line.get_label()[0] != "_"}
    order = sorted(named, key=_rank)
    handles = [named[name] for name in order]
    figure.legend(handles, order, loc="outside lower center", ncols=5, fontsize=9, frameon=False, handlelength=3.5)
    made = textwrap.fill(method_results.made([each for found in tasks.values() for each in found]), _WIDE)
    figure.suptitle(f"Every method at every number of bits\n{made}", fontsize=10)
    save(figure, stem)


def _scores(axes: Any, metric: str, value: float | None) -> _Panel:
    label = {"top1": "top-1", "cosine": "cosine to FP32", "perplexity": "perplexity (down is worse)"}[metric]
    if metric == "perplexity":
        return _Panel(axes, metric, label, value, math.inf if value is None else _TIMES_FLOAT * value)
    return _Panel(axes, metric, label, value, (1.0 if value is None else value) - _BELOW_FLOAT[metric])


def _draw(
    panel: _Panel, task: str, results: Sequence[Result], float_megabytes: float, peers: Sequence[Mapping[str, Any]]
) -> None:
    axes = panel.axes
    axes.set_title(f"{task}: {panel.label} against file size", fontsize=11)
    axes.set(xlabel="file, MB", ylabel=panel.label, xscale="log")
    lows = []
    for method, style in _styles(sorted({each.key.method for each in results}, key=_rank)):
        found = sorted(_points(results, method, panel.name))
        if found:
            axes.plot(*zip(*found, strict=True), label=method, **style)
            lows += [value for _, value in found if panel.shows(value)]
    seen = {
        number: each for number, each in enumerate(peers, 1) if panel.name in each and panel.shows(each[panel.name])
    }
    lows += [each[panel.name] for each in seen.values()]
    if panel.best is not None:
        axes.axhline(panel.best, color="black", linewidth=1, linestyle=(0, (2, 2)), zorder=0)
        axes.annotate(
            f"FP32, {float_megabytes:.3g} MB",
            (0, panel.best),
            (5, 3),
            xycoords=("axes fraction", "data"),
            textcoords="offset points",
            fontsize=8,
        )
    _limits(panel, lows)
    _sizes(axes, [size for size, _ in _points(results, None, panel.name)] + [each["mb"] for each in seen.values()])
    _mark(panel, seen)
    axes.grid(which="major", alpha=0.25)


def _points(results: Iterable[Result], method: str | None, name: str) -> list[tuple[float, float]]:
    """Megabytes and values of what is done, of one method or of all."""
    found = []
    for each in results:
        size, value = each.figures.get("bytes"), each.figures.get(name)
        if each.outcome == DONE and method in (None, each.key.method) and size is not None and value is not None:
            found.append((size / 1e6, value))
    return found


def _rank(method: str) -> tuple[int, str]:
    return METHODS.index(method) if method in METHODS else len(METHODS), method


def _styles(methods: Sequence[str]) -> Iterable[tuple[str, dict[str, Any]]]:
    """A colour a method, and a dash and a marker for each of its variants, the same in every panel."""
    variants: dict[str, list[str]] = {}
    for method in (*METHODS, *methods):
        known = variants.setdefault(method.partition(" ")[0], [])
        if method not in known:
            known.append(method)
    for method in methods:
        base = method.partition(" ")[0]
        number = variants[base].index(method)
        bold = number == 0 and base == "multipoint"
        yield (
            method,
            {
                "color": _COLOURS.get(base, "#7F7F7F"),
                "linestyle": _DASHES[number % len(_DASHES)],
                "marker": _MARKERS[number % len(_MARKERS)],
                "linewidth": 2.6 if bold else 1.2,
                "markersize": 6 if bold else 4,
                "zorder": 4 if bold else 3 if number == 0 else 2,
            },
        )


def _limits(panel: _Panel, values: Sequence[float]) -> None:
    """An axis that holds what is to be seen, and is no longer than that."""
    everything = [*values, *([] if panel.best is None else [panel.best])]
    if not everything:
        return
    low, high = min(everything), max(everything)
    room = 0.06 * (high - low) or 0.01 * abs(high) or 1.0
    if panel.upside_down:
        panel.axes.set_ylim(high + room, low - 1.5 * room)
    else:
        panel.axes.set_ylim(low - room, high + 1.5 * room)


def _sizes(axes: Any, sizes: Sequence[float]) -> None:
    """Plain numbers on a logarithmic axis."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

    axes.xaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 4, 5, 7)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda size, _: f"{size:g}"))
    if sizes:
        axes.set_xlim(min(sizes) / 1.08, max(sizes) * 1.2)


def _mark(panel: _Panel, peers: Mapping[int, Mapping[str, Any]]) -> None:
    """The points of other tools, with the numbers of those that lie together at one place."""
    together: list[tuple[Any, list[int]]] = []
    for number, each in peers.items():
        place = (each["mb"], each[panel.name])
        panel.axes.plot(*place, marker="*", markersize=10, color="white", markeredgecolor="black", zorder=5)
        pixels = panel.axes.transData.transform(place)
        near = [numbers for at, numbers in together if math.dist(at, pixels) < _NEAR]
        if near:
            near[0].append(number)
        else:
            together.append((pixels, [number]))
    for (_, numbers), (x, y) in zip(together, cycle([(7, 4), (7, -10)]), strict=False):
        first = peers[numbers[0]]
        panel.axes.annotate(
            _spans(numbers),
            (first["mb"], first[panel.name]),
            (x, y),
            textcoords="offset points",
            fontsize=8,
            zorder=6,
        )


def _spans(numbers: Sequence[int]) -> str:
    """Numbers in rising order, with runs of three and more as the first and the last."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    parts = [f"{run[0]}–{run[-1]}" if len(run) > 2 else ",".join(map(str, run)) for run in runs]
    return ",".join(parts)


def _ordered(panel: _Panel, task: str) -> list[Mapping[str, Any]]:
    """The points of other tools for a model, the best first."""
    found = [each for each in method_table.peers()["points"] if each["model"] == task and panel.name in each]
    return sorted(found, key=lambda each: float(each[panel.name]), reverse=not panel.upside_down)


def _name(panel: _Panel, peers: Sequence[Mapping[str, Any]]) -> None:
    """Their names beside the panel, by number; of those below the axis the value too."""
    if not peers:
        return
    lines = ["other tools (stars)"]
    for number, each in enumerate(peers, 1):
        value = each[panel.name]
        lines.append(f"{number} {each['tool']}")
        if not panel.shows(value):
            lines[-1] += f" ({method_table.shown(panel.name, value)})"
    said = {"transform": panel.axes.transAxes, "va": "top", "fontsize": 7.5, "linespacing": 1.35}
    panel.axes.text(1.02, 1.0, "\n".join(lines), **said)
