"""Find the scale and the numbers of every row: of the candidates of its scale the best wins and is improved."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache, partial

import torch
from torch import Tensor

from ptq.chunks import in_chunks, weight_chunks
from ptq.formats import MOST_KEPT, Format
from ptq.formats.lloyd import LloydFormat
from ptq.scales import ScaleGrid
from ptq.solve.curvature import Curvature
from ptq.solve.grouping import Grouping
from ptq.solve.roundings import RowRounding
from ptq.solve.settle import Improver
from ptq.solve.solution import Solution
from ptq.solve.steps import Steps, best_of, errors
from ptq.vectors import VectorFormat

_MOST_ELEMENTS = 1 << 22
_LEAST_FACTOR = 0.45
_COARSE = torch.linspace(1.0, _LEAST_FACTOR, 12)
_FINE = torch.linspace(1.0, 0.85, 4)
_FINE_LIMIT = 16
"""From here on an even grid is so fine that clipping its range cannot gain much."""

_FINEST = torch.tensor([1.0, 1.02])
_OCTAVE = torch.linspace(1.0, 2.0, 12)
_FINEST_LIMIT = 60
"""From so many steps on, clipping loses at the output of a network what a layer by itself seems to gain; so only up to
the next scale or, where the steps of large numbers are coarser, over an octave, after which those fall as they did."""

_IDLE = 2.0**-24
"""The part of the most powerful row's output below which a row's is nothing to an 8-bit tensor of all of them."""

_TAPERED = torch.cat([_COARSE[:6] * 2.0**octave for octave in range(-3, 2)])
"""For formats whose large numbers are coarse, in relation to their size: the largest weight is put around the largest
number that is not."""

_LONG_TAILED = torch.linspace(1.4, 0.6, 9)
"""For numbers that are as far apart as those of weights are rare: the tails of a row may fit more or less."""

_OF_VECTORS = 2.4 * 0.8 ** torch.arange(6)
"""Books of vectors reach as far as few rows do, some 6 standard deviations; the largest weight is 2.5 to 8 away."""

_SHORTLIST = 6
"""So many scales are tried with a rounding that takes its time. Against all twelve of int4 the error of layers is 0.007
dB larger in MiniLM, 0.001 dB in EfficientNet-Lite0; with four it would be 0.024 and 0.006 dB."""

_SPARE = 2.0
"""How far beyond the scales that are tried one may settle."""


def scale_grid(
    weight: Tensor, reaches: Sequence[float], curvature: Curvature, least: Tensor | None = None
) -> ScaleGrid:
    """A grid for the scales of rows `(groups, rows, in)` whose numbers reach to any of `reaches`.

    Rows with next to no output, which training leaves behind, do not widen it: they take what scales there are.
    `least (groups, rows, 1)` bounds the scales from below.
    """
    widest = torch.cat([weight[:, at].abs().amax(-1) for at in weight_chunks(weight)], 1)
    low, high = widest * _LEAST_FACTOR / (max(reaches) * _SPARE), widest * (_SPARE / min(reaches))
    if least is not None:
        low, high = low.maximum(least[..., 0]), high.maximum(least[..., 0])
    power = curvature.power(weight)
    alive = power > _IDLE * power.max()
    if not alive.any():
        return ScaleGrid(least=least)
    return ScaleGrid.spanning(float(low[alive].min()), float(high.max()), least)


def solve(
    weight: Tensor, fmt: Format, curvature: Curvature, rounding: RowRounding, grid: ScaleGrid | None = None
) -> Solution:
    """Quantize rows `(groups, rows, in)` to numbers of a format, each with a scale on a grid of their own or `grid`.

    Scales are as they will be stored before anything is rounded.
    """
    every = grid or scale_grid(weight, limits(fmt), curvature)

    def solved(at: slice) -> Solution:
        rows, grid = curvature.arranged(weight[:, at]), every.of_rows(at)
        improver = Improver(rows, fmt, curvature, grid, Grouping.of(rows.shape[-1], None))
        best = improver.solution(rounding, partial(_searched, rows, fmt, curvature, grid))
        return best._replace(values=curvature.restored(best.values))

    return in_chunks(weight, solved, whole=not rounding.is_by_number(curvature))


def _searched(rows: Tensor, fmt: Format, curvature: Curvature, grid: ScaleGrid, rounding: RowRounding) -> Solution:
    """Each row with the best of some scales that clip more and more of it."""
    widest = rows.abs().amax(-1) / max(-fmt.min, fmt.max)
    scales = grid.snap((widest * candidates(fmt)[:, None, None])[..., None])
    if rounding.is_by_number(curvature):
        tried = [Steps(scale) for scale in scales]
        scales = best_of(tried, errors(rows[:, :, None], tried, fmt)).scale[None]
    elif rounding.needs and fmt.span == 1 and len(scales) > _SHORTLIST:
        scales = _promising(rows, scales, fmt, curvature)
    together = max(1, _MOST_ELEMENTS // max(rows.numel(), 1))
    best: Solution | None = None
    for scale in torch.split(scales, together):
        found = _best_of(rows, scale, fmt, curvature, rounding)
        best = found if best is None else best.better(found)
    if best is None:
        raise AssertionError
    return best


def _promising(rows: Tensor, scales: Tensor, fmt: Format, curvature: Curvature) -> Tensor:
    """Of `(candidates, groups, rows, 1)` those with which each row rounded to nearest is best, in their order."""
    tried, importance = [Steps(scale) for scale in scales], curvature.diagonal[:, None, None]
    found = errors(rows[:, :, None], tried, fmt, importance)
    return scales.gather(0, found.topk(_SHORTLIST, dim=0, largest=False).indices.sort(dim=0).values)


def _best_of(rows: Tensor, scale: Tensor, fmt: Format, curvature: Curvature, rounding: RowRounding) -> Solution:
    """Round with every scale of `(candidates, groups, rows, 1)` at once, and keep each row's best."""
    candidates, groups, count, _ = scale.shape
    many = rows.repeat(1, candidates, 1)
    scales = scale.transpose(0, 1).reshape(groups, candidates * count, 1)
    values, error = rounding.rows(many, scales, fmt, curvature, None)
    least, winner = error.reshape(groups, candidates, count).min(dim=1)
    values = values.reshape(groups, candidates, count, -1)
    chosen = values.gather(1, winner[:, None, :, None].expand(-1, 1, -1, values.shape[-1]))[:, 0]
    return Solution(compact(chosen, fmt), scale.gather(0, winner[None, ..., None])[0], least)


def compact(values: Tensor, fmt: Format) -> Tensor:
    """Values as int8 where they all are small integers."""
    return values.to(torch.int8) if fmt.step == 1 and fmt.fits_int8 else values


def limits(fmt: Format) -> tuple[float, float]:
    """The most and the least that the largest weight of a row may become in numbers of a format."""
    largest, tried = max(-fmt.min, fmt.max), candidates(fmt).clamp_min(1.0)  # what clips is in the grid anyway
    return largest / float(tried.min()), largest / float(tried.max())


@lru_cache(MOST_KEPT)
def candidates(fmt: Format) -> Tensor:
    """What to try as scales, relative to that with which the largest weight is the largest number.

    Smaller ones clip. Larger ones leave large numbers unused, which pays where those are farther apart than others, in
    relation to their size, as in posits.
    """
    if isinstance(fmt, LloydFormat):
        return _LONG_TAILED
    if isinstance(fmt, VectorFormat):
        return _OF_VECTORS
    limit = max(-fmt.min, fmt.max) / fmt.step
    if _is_even(fmt):
        return _FINEST if limit >= _FINEST_LIMIT else _FINE if limit >= _FINE_LIMIT else _COARSE
    unused = fmt.max / _finest(fmt)
    if unused > 2:
        return _TAPERED * unused
    return _OCTAVE if limit >= _FINEST_LIMIT else torch.cat([_FINEST[1:], _COARSE])


@lru_cache(MOST_KEPT)
def _finest(fmt: Format) -> float:
    """The largest number whose neighbours are, in relation to it, as near as any number's."""
    values = [value for value in fmt.values if value > 0]
    gaps = {high: (high - low) / high for low, high in itertools.pairwise(values)}
    least = min(gaps.values(), default=1.0)
    return max((value for value, gap in gaps.items() if gap == least), default=fmt.max)


def _is_even(fmt: Format) -> bool:
    """Whether all neighbours are equally far apart."""
    return len(fmt.values) == round((fmt.max - fmt.min) / fmt.step) + 1
