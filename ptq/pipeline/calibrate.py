"""Stream the calibration data through the float network and keep what the plan needs, and no more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from calibration.batch import Batch
from calibration.im2col import patch_mean, patches, rows
from calibration.observers import Density, Histogram, Mean, Moment, Moments, Range
from ptq import formats
from ptq.devices import CPU
from ptq.model.geometry import Geometry
from ptq.model.graph import Model
from ptq.model.probe import extremes, mean_as, probed, sampled_as
from ptq.model.sites import Site, Use
from ptq.pipeline import together
from ptq.pipeline.stages import Advance
from ptq.ranges import RANGES, ActivationRange

BATCH = 4
POSITIONS = 512
"""Output positions of a convolution, per sample, that its second moment is taken from."""

_HISTOGRAM_VALUES = 32_768
"""Numbers of a tensor that its histogram sees, per batch."""


@dataclass(frozen=True)
class Statistics:
    """Ranges by tensor, and by site the moment of its inputs: of all samples, and of all but the first few.

    A site is in `apart` only when there were others than the first few. `means (groups, in)` are those of the inputs,
    also of sites without a moment.
    """

    ranges: Mapping[str, ActivationRange]
    moments: Mapping[str, Moment]
    apart: Mapping[str, Moment]
    means: Mapping[str, Tensor]


@dataclass(frozen=True)
class Key:
    """What sites with the same input see alike, so that it is gathered once."""

    input: str
    geometry: Geometry | None
    groups: int
    columns: int

    @property
    def moment_bytes(self) -> int:
        """The size of its second moment."""
        return self.groups * self.columns**2 * torch.float64.itemsize


def keys(site: Site) -> tuple[Key, ...]:
    """What a site sees, at each of its uses as a product."""
    return tuple(_key(site, use) for use in site.products)


def _key(site: Site, use: Use) -> Key:
    return Key(use.input, use.geometry, site.groups, site.columns)


def calibrate(
    model: Model,
    sites: Iterable[Site],
    observed: Iterable[str],
    rule: str,
    batches: Iterable[Batch],
    advance: Advance = lambda: None,
    *,
    reserved: int = 0,
    averaged: Sequence[Site] = (),
    device: str = CPU,
    passed: Callable[[Any, Mapping[str, np.ndarray]], None] = lambda *_: None,
) -> Statistics:
    """The moments of `sites` and the ranges of the tensors in `observed`, found by the range rule of that name.

    Of the sites in `averaged`, which have one use, there are means only. The first `reserved` samples, rounded up to
    whole batches, are left out of `Statistics.apart`, which is empty without them. Each batch is `passed` on with what
    the graph made of it. Of several ranks each has its own batches, and all find what is to be found in those of all.
    """
    wanted = {site.name: keys(site) for site in sites}
    moments = {key: Moments() for each in wanted.values() for key in each}
    first = {key: Moments() for key in moments} if reserved else {}
    ranges = {name: Range() for name in observed}
    histograms = {name: Histogram() for name in ranges} if rule != "minmax" else {}
    taps = list(dict.fromkeys(key.input for key in moments))
    inputs = {site.name: (use.input, -1 if use.geometry is None else 1) for site in averaged for use in site.uses}
    means = {each: Mean() for each in inputs.values()}
    session = probed(model.graph, ranges, taps, histograms, _HISTOGRAM_VALUES // BATCH, means, device=device)
    for batch in batches:
        found = dict(zip(session.outputs, session.run(batch.feeds), strict=True)) | dict(batch.feeds)
        for name, seen in ranges.items():
            low, high = extremes(name)
            seen.add(float(found.get(low, 0.0)), float(found[high]))
        for name, histogram in histograms.items():
            histogram.add(_thinned(found[sampled_as(name)]))
        for (name, axis), mean in means.items():
            values = torch.from_numpy(found[mean_as(name, axis)])
            mean.add(values.flatten(1).mean(0) if axis == 1 else values, batch.size)
        _add(first if batch.start < reserved else moments, found)
        passed(batch, found)
        del found  # before the next batch brings as much again
        advance()
    together.merge(ranges)
    together.merge(histograms)
    together.merge(means)
    for sums in (first, moments):
        together.add_up({key: (moment, key.groups, key.columns) for key, moment in sums.items()})
    others: dict[str, Moment] = {}
    if reserved:
        _merge(first, moments)
        if all(each.count for each in moments.values()):
            others = _by_site(moments, wanted)
        moments = first
    by_site = _by_site(moments, wanted)
    averages = {name: each.mean for name, each in by_site.items()}
    averages |= {site.name: _mean(model, site, means[inputs[site.name]].result()) for site in averaged}
    return Statistics(_ranges(ranges, histograms, rule), by_site, others, averages)


def _mean(model: Model, site: Site, channels: Tensor) -> Tensor:
    """The mean input of a site `(groups, in)`, from that of the channels of its input."""
    g = site.uses[0].geometry
    if g is None:
        return channels[None]
    shape = model.shape(site.uses[0].input) or (None,) * (len(g.kernel) + 2)
    return patch_mean(channels, shape[2:], g.kernel, g.strides, g.padding(shape[2:]), g.dilations, site.groups)


def vectors_of(site: Site, use: Use, x: Tensor) -> Tensor:
    """What a use of a site multiplies the weight with, `(groups, samples, in)`."""
    return _vectors(x, _key(site, use))


def _vectors(x: Tensor, key: Key) -> Tensor:
    g = key.geometry
    if g is None:
        return rows(x)
    return patches(x, g.kernel, g.strides, g.padding(x.shape[2:]), g.dilations, key.groups, POSITIONS)


def _add(into: Mapping[Key, Moments], found: Mapping[str, np.ndarray]) -> None:
    for key, moment in into.items():
        moment.add(_vectors(torch.from_numpy(np.require(found[key.input], requirements=("C", "W"))), key))


def _merge(into: Mapping[Key, Moments], others: Mapping[Key, Moments]) -> None:
    for key, moment in into.items():
        moment.merge(others[key])


def _sum(parts: Iterable[Moments]) -> Moments:
    total = Moments()
    for part in parts:
        total.merge(part)
    return total


def _by_site(moments: dict[Key, Moments], wanted: Mapping[str, tuple[Key, ...]]) -> dict[str, Moment]:
    """The moment of each site over all its uses; sites with the same uses share one. Each sum is freed when used up."""
    made: dict[tuple[Key, ...], Moment] = {}
    left = Counter(key for each in set(wanted.values()) for key in set(each))
    for each in dict.fromkeys(wanted.values()):
        made[each] = (moments[each[0]] if len(each) == 1 else _sum(moments[key] for key in each)).result()
        left.subtract(set(each))
        for key in set(each):
            if not left[key]:
                del moments[key]
    return {name: made[each] for name, each in wanted.items()}


def _ranges(ranges: Mapping[str, Range], histograms: Mapping[str, Histogram], rule: str) -> dict[str, ActivationRange]:
    uint8 = formats.get("uint8")
    densities = {name: _density(seen, histograms.get(name)) for name, seen in ranges.items()}
    return {name: RANGES[rule](density, uint8) for name, density in densities.items()}


def _density(seen: Range, histogram: Histogram | None) -> Density:
    """What a range rule looks at; the extremes are exact although the histogram saw only a part."""
    if histogram is None:
        ends = np.array([seen.low, max(seen.high, np.nextafter(seen.low, np.inf))])
        return Density(np.ones(1, np.int64), ends, seen.low, seen.high)
    part = histogram.result()
    return Density(part.counts, part.edges, seen.low, seen.high)


def _thinned(values: np.ndarray) -> np.ndarray:
    """At most so many of the values, evenly spaced."""
    flat = values.reshape(-1)
    return flat[:: -(-flat.size // _HISTOGRAM_VALUES)]
