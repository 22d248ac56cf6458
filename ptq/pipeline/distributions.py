"""How weights and activations are distributed, on the grids that they are rounded to: for people to look at."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from calibration.dataset import Dataset
from calibration.observers import Histogram
from ptq.lowering import ActivationGrid, Execution, activation_grids, stored_weight
from ptq.model.graph import Model
from ptq.model.probe import sampled, sampled_as
from ptq.model.sites import Site
from ptq.qtensor import QTensor
from ptq.report import ActivationReport, Distribution

_BINS: Final = 64
_MOST_WEIGHTS: Final = 1 << 17
_ROWS: Final = 256
_MOST_NUMBERS: Final = 256
"""Of a grid: more would not be told apart."""

_POSITIONS: Final = 64
"""Of an image, per sample."""

_SAMPLES, _MOST_SECONDS = 16, 3.0


@dataclass(frozen=True)
class Shown:
    """A quantized weight for people to look at: its power and that of its error, and how its numbers lie."""

    power: float
    noise: float
    numbers: Distribution | None


def shown(weight: Tensor, made: QTensor, how: Execution) -> Shown:
    """A weight `(out, in)` and what it became, as it is executed."""
    stored = stored_weight(made, how)
    power = noise = 0.0
    for start in range(0, len(weight), _ROWS):  # float64 of all would be large
        some, became = (each[start : start + _ROWS] for each in (weight, stored))
        power += float(some.double().square().sum())
        noise += float((became - some).double().square().sum())
    return Shown(power, noise, weight_distribution(weight, stored, made))


def weight_distribution(weight: Tensor, stored: Tensor, made: QTensor) -> Distribution | None:
    """A weight `(out, in)` in units of the first scale of each row, and what its numbers became; None of zeros alone.

    Of a large weight some numbers stand for all.
    """
    scale = torch.zeros(made.shape[0], dtype=torch.float64)
    for term in reversed(made.terms):
        scale[slice(None) if term.rows is None else term.rows] = term.scale.double()
    rows = scale.nonzero()[:, 0]
    if not len(rows) or not weight.shape[1]:
        return None
    columns = weight.shape[1]
    count = len(rows) * columns
    if count <= _MOST_WEIGHTS:
        places = torch.arange(count)
    else:
        places = torch.randint(count, (_MOST_WEIGHTS,), generator=torch.Generator().manual_seed(0))
    row, column = rows[places // columns], places % columns
    before, after = ((each[row, column] / scale[row]).double().numpy() for each in (weight, stored))
    low, high = (float(end([end(before), end(after)])) for end in (np.min, np.max))
    counts, _ = np.histogram(before, _BINS, (low, high))
    return Distribution(low, high, tuple(counts.tolist()), _thinned(after))


def _thinned(numbers: np.ndarray) -> tuple[float, ...]:
    """The numbers that occur, ascending: of more than can be told apart, such as are evenly spread."""
    found = np.unique(numbers.round(4))
    if len(found) > _MOST_NUMBERS:
        step = (found[-1] - found[0]) / _MOST_NUMBERS
        found = np.unique((found / step).round()) * step
    return tuple(np.round(found, 4).tolist())


def points_by_part(points: Tensor) -> tuple[float, ...]:
    """The mean number of points in as many parts of the rows `(out,)` as there is room for; none where all have one."""
    if bool((points == 1).all()):
        return ()
    parts = np.array_split(points.numpy(), min(_BINS, len(points)))
    return tuple(round(float(part.mean()), 2) for part in parts)


def activations(
    model: Model, lowered: Model, executions: Mapping[str, Execution], fmt: str, data: Dataset
) -> tuple[ActivationReport, ...]:
    """The inputs of quantized layers, and all that is rounded to a grid; `fmt` is the format that layers simulate.

    They are those of the float network, on a few samples.
    """
    grids = activation_grids(lowered, fmt)
    held = list(_tensors(model, model.sites, executions, grids))
    if not held:
        return ()
    seen = _seen(model, held, data)
    return tuple(activation_report(name, seen[name], grids.get(name)) for name in held if seen[name].counts.size)


def _tensors(
    model: Model, sites: Sequence[Site], executions: Mapping[str, Execution], grids: Mapping[str, ActivationGrid]
) -> Iterator[str]:
    """Names in the order in which the graph makes them."""
    read = {use.input for site in sites if executions[site.name] is not Execution.FLOAT for use in site.products}
    graph = model.graph.graph
    for value in (*graph.inputs, *(out for node in graph for out in node.outputs)):
        if value.name is not None and (value.name in read or value.name in grids):
            yield value.name


def _seen(model: Model, names: Sequence[str], data: Dataset) -> dict[str, Histogram]:
    """What some samples have, for as long as there is time."""
    session = sampled(model.graph, dict.fromkeys(names, _POSITIONS))
    found = {name: Histogram() for name in names}
    start = time.perf_counter()
    for batch in data.take(_SAMPLES).batches(1):
        made = dict(zip(session.outputs, session.run(batch.feeds), strict=True))
        for name, histogram in found.items():
            values = made[sampled_as(name)].reshape(-1)
            histogram.add(values[np.isfinite(values)])
        if time.perf_counter() - start > _MOST_SECONDS:
            break
    return found


def activation_report(name: str, seen: Histogram, grid: ActivationGrid | None) -> ActivationReport:
    """A tensor on its grid, where it has one."""
    found = seen.result()
    centres = (found.edges[:-1] + found.edges[1:]) / 2
    apart = found.high - found.low > _BINS * np.spacing(max(abs(found.low), abs(found.high)))
    ends = (found.low, found.high) if apart else (found.low, found.low + max(1.0, abs(found.low)))
    counts, _ = np.histogram(centres.clip(*ends), _BINS, ends, weights=found.counts)
    numbers = Distribution(*ends, tuple(counts.astype(int).tolist()), () if grid is None else _thinned_grid(grid))
    if grid is None:
        return ActivationReport(name, found.low, found.high, numbers)
    half = grid.step / 2
    outside = (centres < grid.numbers[0] - half) | (centres > grid.numbers[-1] + half)
    clipped = float(found.counts[outside].sum() / found.counts.sum())
    return ActivationReport(name, found.low, found.high, numbers, grid.step, grid.zero_point, clipped)


def _thinned_grid(grid: ActivationGrid) -> tuple[float, ...]:
    return tuple(float(f"{number:.5g}") for number in grid.numbers[:: -(-len(grid.numbers) // _MOST_NUMBERS)])
