"""How the error of greedy points falls with their number, on the layers of a model and on random rows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import runs
import torch
from plotting import pyplot, save
from torch import Tensor

from calibration.dataset import fit
from calibration.sources import open_data
from ptq import formats
from ptq.methods.multipoint.greedy import greedy_rows, residuals
from ptq.model.capture import CaptureOptions, capture
from ptq.model.graph import Model
from ptq.pipeline.calibrate import BATCH, calibrate

POINTS: Final = 8
FORMATS: Final = ("int2", "int3", "int4")
RANDOM: Final = "random rows"
_COLOURS: Final = ("#D55E00", "#0072B2", "#009E73")
_COLUMNS: Final = (16, 64, 256, 1024)
"""Lengths of random rows, normally distributed."""
_FLOOR: Final = 1e-25
"""Of a part of the power: below it there is little but the rounding of float64."""


@dataclass(frozen=True)
class Decay:
    """Errors of the rows of a weight after one point, two, ..., as parts of the power: their own, and of the output.

    Both are `(points,)`; of random rows the inputs are independent, so that they are the same.
    """

    site: str
    format: str
    columns: int
    weight: tuple[float, ...]
    output: tuple[float, ...]

    @property
    def factor(self) -> float:
        """What a point more multiplies the output error by, from a straight line through its logarithms."""
        seen = [value for value in self.output if value > _FLOOR]
        if len(seen) < 2:
            return math.nan
        return math.exp(float(np.polyfit(range(len(seen)), np.log(seen), 1)[0]))

    @property
    def straightness(self) -> float:
        """Part of the variance of the logarithms that the line explains; 1 is exponential decay."""
        seen = np.log([value for value in self.output if value > _FLOOR])
        return float(np.corrcoef(range(len(seen)), seen)[0, 1] ** 2) if len(seen) > 2 else math.nan

    @property
    def bound(self) -> float:
        """What a point at least multiplies the weight's error by, `1 - 1 / d`: it can be as good as one element."""
        return 1 - 1 / self.columns

    @property
    def holds(self) -> bool:
        """Whether the error of the weight is within the bound after each point."""
        return all(left <= self.bound**n + _FLOOR for n, left in enumerate(self.weight, 1))


def of_model(task: runs.Task, rows: int) -> Iterator[Decay]:
    """The layers of a model that compute, with up to so many rows of each, evenly chosen."""
    model = Model.of(capture(task.model, CaptureOptions()))
    sites = [site for site in model.sites if site.products]
    batches = fit(open_data(task.data), model.inputs).batches(BATCH)
    moments = calibrate(model, sites, (), "minmax", batches).moments
    for site in sites:
        weight = torch.from_numpy(np.array(model.matrix(site), np.float32)).reshape(site.groups, -1, site.columns)
        gram = moments[site.name].gram
        places = np.unique(np.linspace(0, weight.shape[0] * weight.shape[1] - 1, rows).astype(int))
        group = torch.from_numpy(places) // weight.shape[1]
        for name in FORMATS:
            yield decay(site.name, name, weight.flatten(0, 1)[places], gram, group)


def of_random_rows(rows: int, seed: int = 0) -> Iterator[Decay]:
    """Rows of normally distributed numbers, of several lengths."""
    rng = torch.Generator().manual_seed(seed)
    for columns in _COLUMNS:
        weight, gram = torch.randn(rows, columns, generator=rng), torch.eye(columns, dtype=torch.float64)[None]
        for name in FORMATS:
            yield decay(RANDOM, name, weight, gram, torch.zeros(rows, dtype=torch.int64))


def decay(site: str, name: str, weight: Tensor, gram: Tensor, group: Tensor) -> Decay:
    """That of rows `(rows, in)`, of which `group (rows,)` says whose inputs they have, second moments `gram`."""
    points = greedy_rows(weight, int(formats.get(name).max), POINTS)
    left = [weight.double(), *residuals(weight, points)]
    plain = [float(each.square().sum()) for each in left]
    seen = [sum(_power(each[group == g], gram[g]) for g in group.unique().tolist()) for each in left]

    def parts(errors: Sequence[float]) -> tuple[float, ...]:
        return tuple(error / errors[0] if errors[0] > 0 else 0.0 for error in errors[1:])

    return Decay(site, name, weight.shape[1], parts(plain), parts(seen))


def _power(rows: Tensor, gram: Tensor) -> float:
    return float(((rows @ gram) * rows).sum())


def table(decays: Sequence[Decay]) -> list[str]:
    """Medians over layers, and of random rows of each length."""
    columns = ("rows", "points of", "d", *(f"n = {n}, dB" for n in (1, 2, 4, POINTS)))
    lines = [runs.head((*columns, "dB a point", "of bound 1 - 1/d", "straightness", "within bound"))]
    for (kind, name), found in _grouped(decays).items():
        widths = sorted(each.columns for each in found)
        span = f"{widths[0]}" if widths[0] == widths[-1] else f"{widths[0]} to {widths[-1]}"
        errors = [_median(each.output[n - 1] for each in found) for n in (1, 2, 4, POINTS)]
        rates = (_median(each.factor for each in found), _median(each.bound for each in found))
        straight = _median(each.straightness for each in found)
        lines.append(
            runs.row(
                [
                    *(kind, name, span, *(f"{_decibels(error):.1f}" for error in errors)),
                    *(f"{_decibels(rate):.{digits}f}" for rate, digits in zip(rates, (1, 3), strict=True)),
                    *(f"{straight:.4f}", f"{sum(each.holds for each in found)} of {len(found)}"),
                ]
            )
        )
    return lines


def draw(decays: Sequence[Decay], title: str, stem: Path) -> None:
    """The layers on the left, random rows on the right, in decibels, with what the bound allows."""
    figure, panels = pyplot().subplots(1, 2, figsize=(13, 5), sharey=True, layout="constrained")
    turns = range(1, POINTS + 1)
    lines = dict(zip(_COLUMNS, ("-", (0, (5, 2)), (0, (1, 1.2)), (0, (6, 2, 1, 2))), strict=True))
    for name, colour in zip(FORMATS, _COLOURS, strict=True):
        layers = [_db(each.output) for each in decays if each.format == name and each.site != RANDOM]
        if layers:
            low, middle, high = np.quantile(layers, (0.1, 0.5, 0.9), axis=0)
            panels[0].plot(turns, middle, color=colour, marker="o", label=f"{name}, median of {len(layers)} layers")
            panels[0].fill_between(turns, low, high, color=colour, alpha=0.15, label="10 % to 90 % of layers")
        for each in decays:
            if each.format == name and each.site == RANDOM:
                style = {"color": colour, "marker": "o", "markersize": 3, "linestyle": lines[each.columns]}
                panels[1].plot(turns, _db(each.output), label=f"{name}, d = {each.columns}", **style)
    for panel, what in zip(panels, ("layers, error of the output", "normal random rows"), strict=True):
        columns = [each.columns for each in decays if (each.site == RANDOM) == (what != "layers, error of the output")]
        widths = sorted({min(columns), max(columns)}) if columns else []
        for d in widths:
            panel.plot(turns, [_decibels((1 - 1 / d) ** n) for n in turns], color="black", linewidth=1, linestyle=":")
        said = f"bound of the weights' error, (1 - 1/d)^n, d = {' and '.join(map(str, widths))}"
        panel.annotate(said, (POINTS, 0), (0, 4), textcoords="offset points", fontsize=8, ha="right")
        panel.set(title=what, xlabel="points n")
        panel.grid(alpha=0.25)
        panel.legend(fontsize=8, loc="lower left", ncols=1 if panel is panels[0] else 3)
    panels[0].set_ylabel("error left over, dB")
    figure.suptitle(title, fontsize=10)
    save(figure, stem)


def _grouped(decays: Sequence[Decay]) -> Mapping[tuple[str, str], list[Decay]]:
    found: dict[tuple[str, str], list[Decay]] = {}
    for each in decays:
        kind = f"random, {each.columns}" if each.site == RANDOM else "layers"
        found.setdefault((kind, each.format), []).append(each)
    return found


def _median(values: Iterable[float]) -> float:
    return float(np.nanmedian(list(values)))


def _decibels(part: float) -> float:
    return 10 * math.log10(max(part, 1e-30))


def _db(parts: Sequence[float]) -> list[float]:
    return [_decibels(part) for part in parts]
