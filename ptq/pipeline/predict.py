"""How long a run will take and how much memory: the float network on two samples, and a part of the rounding."""

from __future__ import annotations

import time
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from torch import Tensor

from calibration.batch import Batch
from calibration.dataset import Dataset
from ptq.method import Method
from ptq.model.graph import Model
from ptq.model.save import whole_bytes
from ptq.model.sites import Site
from ptq.pipeline.calibrate import BATCH, Statistics, calibrate, keys
from ptq.pipeline.describe import SAMPLES_WITHOUT_EVAL
from ptq.pipeline.memory import needed_bytes, resident_bytes
from ptq.pipeline.parts import Wanted
from ptq.pipeline.ready import Ready, parts_of, wanted
from ptq.pipeline.smooth import smoothable
from ptq.report import Prediction
from ptq.solve import Curvature

_ENOUGH_SECONDS: Final = 3.0
"""After so long no more layers are rounded; the others are expected to take as long for each weight."""

_FEW, _MANY = 16, 64
"""Rows that are rounded of a layer; what more rows take follows from the difference."""

_STREAMED: Final = 256
"""Samples that a stream is taken to have, which tells nothing of its length."""

_TURNS, _MOST_TURNS_SECONDS, _PROCESSES_SECONDS = 36, 10.0, 1.0
"""Of the audit: runs of both files, how long these take at most, and two processes for their memory."""

_QUANTIZED: Final = 0.6
"""What a run of the quantized file is taken to last, in runs of the float one."""

_COPIES: Final = 3
"""Of the weights: the network as it came, as it is quantized, and as a file."""


@dataclass(frozen=True)
class _Passes:
    """Seconds of one sample in the float network, and of getting ready for it."""

    plain: float = 0.0
    opening: float = 0.0
    bytes: int = 0
    """What a session with its weights and one sample adds to the memory of the process."""


def predict(ready: Ready) -> Prediction:
    """Expect the stages of a run on this machine, as busy as it is now."""
    passes, statistics = _Passes(), None
    before = resident_bytes()
    needed = wanted(ready.model, ready.plan, ready.executions)
    count, stages = _count(ready.data), {}
    seen = ready.data or ready.evaluation
    if seen is not None:
        passes = _passes(ready.model, next(seen.batches(1)))
    if ready.data is not None and needed:
        each, statistics = _calibrating(ready, ready.data, needed)
        stages["calibrate"] = passes.opening + count * each
    if ready.data is not None and smoothable(ready.model, ready.executions):
        stages["smooth"] = passes.opening + count * passes.plain
    stages["quantize"] = _rounding(ready, statistics)
    free = sum(each.budgeted for each in ready.plan.sites.values())
    if ready.reserved and free:  # on average half of the network is behind a layer
        stages["allocate"] = free * (passes.opening + ready.reserved * passes.plain / 2)
    if seen is not None:
        stages["audit"] = _PROCESSES_SECONDS + min(_TURNS * (1 + _QUANTIZED) * passes.plain, _MOST_TURNS_SECONDS)
        judged = _count(ready.evaluation) if ready.evaluation is not None else min(count, SAMPLES_WITHOUT_EVAL)
        stages["evaluate"] = judged * (1 + _QUANTIZED) * passes.plain
    moments = _moment_bytes(ready, needed)
    weights = whole_bytes(ready.model)
    activations = BATCH * max(passes.bytes - weights, 0)
    left_out = tuple(name for name, _ in ready.plan.steps)
    if ready.plan.recipe.max_latency is not None:
        left_out = (*left_out, "--max-latency")
    return Prediction(stages, before + moments + activations + _COPIES * weights, left_out)


def _count(data: Dataset | None) -> int:
    return 0 if data is None else data.samples or _STREAMED


def _moment_bytes(ready: Ready, needed: Wanted) -> int:
    """What second moments take, of one block at a time."""
    apart = ready.reserved > 0
    blocks = [part.wanted.moments for part in parts_of(ready.model, ready.plan, needed, ready.block_bytes, apart=apart)]
    return max(needed_bytes({site.name: keys(site) for site in sites}, apart=apart) for sites in blocks)


def _passes(model: Model, batch: Batch) -> _Passes:
    """Run the float network twice; the first time it gets ready."""
    before, start = resident_bytes(), time.perf_counter()
    session = model.session()
    session.run(batch.feeds)
    opened = time.perf_counter()
    session.run(batch.feeds)
    plain = time.perf_counter() - opened
    return _Passes(plain / max(batch.size, 1), opened - start - plain, max(resident_bytes() - before, 0))


def _calibrating(ready: Ready, data: Dataset, needed: Wanted) -> tuple[float, Statistics]:
    """Calibrate on two samples, the second of which tells what each more takes; that, and what was found."""
    marks: list[tuple[float, int]] = []

    def marked() -> Iterator[Batch]:
        for batch in data.take(2).batches(1):
            marks.append((time.perf_counter(), batch.size))
            yield batch
        marks.append((time.perf_counter(), 0))

    found = calibrate(
        ready.model, needed.moments, needed.ranges, ready.plan.recipe.range, marked(), averaged=needed.means
    )
    (start, size), (end, _) = marks[-2:]
    return (end - start) / max(size, 1), found


def _rounding(ready: Ready, statistics: Statistics | None) -> float:
    """Seconds to round all layers: of each kind one, in part, those with most weights first, while there is time."""
    kinds: dict[Hashable, list[Site]] = {}
    for site in ready.model.sites:
        decided = ready.plan.sites[site.name]
        if decided.method is not None:
            kind = (decided.method, decided.said.points, site.groups, site.rows // site.groups, site.columns)
            kinds.setdefault(kind, []).append(site)
    seconds, weights, left = 0.0, 0, 0
    start = time.perf_counter()
    for alike in sorted(kinds.values(), key=lambda each: -len(each) * _size(each[0])):
        if weights and time.perf_counter() - start > _ENOUGH_SECONDS:
            left += len(alike) * _size(alike[0])
        else:
            seconds += len(alike) * _of_one(ready, alike[0], statistics)
            weights += len(alike) * _size(alike[0])
    return seconds * (weights + left) / max(weights, 1)


def _size(site: Site) -> int:
    return site.rows * site.columns


def _of_one(ready: Ready, site: Site, statistics: Statistics | None) -> float:
    """Seconds to round one layer, from those of some of its groups, or of some of its rows."""
    decided = ready.plan.sites[site.name]
    method = decided.method
    if method is None:
        raise AssertionError
    matrix = torch.from_numpy(np.array(ready.model.matrix(site), np.float32))
    weight = matrix.reshape(site.groups, -1, site.columns)
    whole = max(site.groups, weight.shape[1])
    parts = sorted({min(whole, each) for each in (_FEW, _MANY)})
    some = [_timed(ready, site, method, weight, part, statistics) for part in parts]
    if whole <= _MANY:
        return some[-1]
    few, many = some
    return many + max(many - few, 0.0) / (_MANY - _FEW) * (whole - _MANY)


def _timed(ready: Ready, site: Site, method: Method, weight: Tensor, part: int, statistics: Statistics | None) -> float:
    """Seconds to round that many of the groups of a weight, or of its rows where it has one group."""
    some = weight[:part] if site.groups > 1 else weight[:, :part]
    moment = None if statistics is None else statistics.moments.get(site.name)
    points = ready.plan.sites[site.name].said.points
    start = time.perf_counter()
    if moment is None:
        curvature = Curvature.unknown(len(some), site.columns)
    else:
        curvature = Curvature.of(moment.centred()[: len(some)], moment.count, method.scheme.format.span)
    method.ladder(some, curvature, points=points)
    return time.perf_counter() - start
