"""From what was seen of an activation to its scale and zero point.

Percentile, mean squared error and entropy are the usual three ways to clip (arXiv:2004.09602, section 5.2).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ptq.errors import DataError
from ptq.formats import Format

PERCENTILE: Final = 99.99
"""How much of the distribution `percentile` keeps below its upper end, and above its lower end."""

_LARGEST = float(np.finfo(np.float32).max)
_LEAST_SCALE = float(np.finfo(np.float32).tiny)
_COARSE = np.geomspace(1.0, 1e-3, 12)
_ROUNDS = 4
_FINE = 7


class Density(Protocol):
    """A histogram: `counts (bins,)` between `edges (bins + 1,)`, and the smallest and largest number seen.

    Edges ascend strictly.
    """

    @property
    def counts(self) -> NDArray[Any]:
        """How many numbers are in each bin."""

    @property
    def edges(self) -> NDArray[Any]:
        """Where the bins begin and end."""

    @property
    def low(self) -> float:
        """The smallest number seen."""

    @property
    def high(self) -> float:
        """The largest number seen."""


@dataclass(frozen=True)
class ActivationRange:
    """The interval that a quantized activation covers; it contains 0.

    Raises:
        DataError: an end is not a float32 number, or the ends do not enclose 0.

    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if not (-_LARGEST <= self.low <= 0 <= self.high <= _LARGEST):
            raise DataError(f"an activation range is {self.low}..{self.high}, not finite around 0; check the data")


def affine(fmt: Format, low: float, high: float) -> tuple[np.float32, int]:
    """Scale and zero point with which an integer format covers a range that contains 0.

    0 is a number of the grid. A range of nothing but 0 is covered as if it reached to 1: the biases of layers behind it
    are rounded to its scale times that of their weights. No scale is below the normal numbers.

    Raises:
        DataError: the range is not finite or does not contain 0.

    """
    span = ActivationRange(low, high)
    if span.low == span.high:
        return np.float32(1 / (fmt.max - fmt.min)), int(max(fmt.min, 0))
    scale = np.float32(max((high - low) / (fmt.max - fmt.min), _LEAST_SCALE))
    zero_point = round(fmt.min - low / float(scale))
    return scale, int(min(max(zero_point, fmt.min), fmt.max))


def minmax(density: Density, fmt: Format) -> ActivationRange:  # noqa: ARG001 (one signature for all)
    """All that was seen."""
    return _around_zero(density.low, density.high)


def percentile(density: Density, fmt: Format, percent: float = PERCENTILE) -> ActivationRange:  # noqa: ARG001
    """Up to a percentile of the distribution, and down to the same one from the other side."""
    below = np.concatenate([[0.0], np.cumsum(density.counts, dtype=np.float64)])
    cut = (1 - percent / 100) * below[-1]
    low, high = np.interp([cut, below[-1] - cut], below, density.edges)
    return _around_zero(max(low, density.low), min(high, density.high))


def mse(density: Density, fmt: Format) -> ActivationRange:
    """The range with the least mean squared quantization error, numbers being spread evenly within a bin."""
    return _search(density, fmt, _squared_error)


def entropy(density: Density, fmt: Format) -> ActivationRange:
    """The range that changes the distribution least, by the Kullback-Leibler divergence as TensorRT measures it.

    Before quantization what is clipped counts to the outermost bins that are not, afterwards it is missing; each
    number of the format is spread over the occupied bins that round to it. A range of fewer bins than the format has
    numbers is not considered: nothing in it could be lost.
    """
    return _search(density, fmt, _divergence)


RANGES: Final[Mapping[str, Callable[[Density, Format], ActivationRange]]] = MappingProxyType(
    {"minmax": minmax, "percentile": percentile, "mse": mse, "entropy": entropy}
)
"""Every way to choose a range by name."""

_Loss = Callable[[Density, Format, float, float], float]


def _search(density: Density, fmt: Format, loss: _Loss) -> ActivationRange:
    """Shrink both ends by every pair of factors, then look closer around the best; of equals the widest wins."""
    widest = minmax(density, fmt)
    ends = [widest.low, widest.high]
    if not np.any(density.counts) or not any(ends):
        return widest
    factors = [_COARSE if end else np.ones(1) for end in ends]
    spacing = _COARSE[1]
    for _ in range(_ROUNDS):
        pairs = itertools.product(*factors)
        best = min(pairs, key=lambda pair: loss(density, fmt, ends[0] * pair[0], ends[1] * pair[1]))
        closer = np.geomspace(1 / spacing, spacing, _FINE)
        factors = [np.unique(np.minimum(factor * closer, 1))[::-1] for factor in best]
        spacing **= 2 / (_FINE - 1)
    return ActivationRange(float(ends[0] * best[0]), float(ends[1] * best[1]))


def _squared_error(density: Density, fmt: Format, low: float, high: float) -> float:
    """Total squared error, integrated over every bin.

    In units of the scale the error of `t` is `(t - k)^2`, `k` being `t` rounded and clipped; its integral is
    `k / 12 + (t - k)^3 / 3`, which has no jump where `k` changes.
    """
    scale, zero_point = affine(fmt, low, high)
    t = density.edges / float(scale) + zero_point
    k = t.round().clip(fmt.min, fmt.max)
    integral = k / 12 + (t - k) ** 3 / 3
    return float(float(scale) ** 2 * (density.counts * np.diff(integral) / np.diff(t)).sum())


def _divergence(density: Density, fmt: Format, low: float, high: float) -> float:
    """KL divergence of a clipped histogram from its quantized self; infinite for fewer bins than numbers."""
    scale, zero_point = affine(fmt, low, high)
    counts = _without_zeros(density)
    centres = (density.edges[:-1] + density.edges[1:]) / 2
    number = (centres / float(scale) + zero_point).round() - fmt.min
    inside = (counts > 0) & (number >= 0) & (number < len(fmt.values))
    first, last = np.flatnonzero(inside)[[0, -1]] if inside.any() else (0, 0)
    if last - first + 1 < len(fmt.values):
        return math.inf
    kept, number = counts[inside], number[inside].astype(np.int64)
    spread = (np.bincount(number, kept) / np.maximum(np.bincount(number), 1))[number]
    clipped = kept.copy()
    clipped[0] += counts[:first].sum()
    clipped[-1] += counts[last + 1 :].sum()
    p, q = clipped / clipped.sum(), spread / spread.sum()
    return float((p * np.log(p / q)).sum())


def _without_zeros(density: Density) -> NDArray[np.float64]:
    """Counts with the bin of 0 no higher than its neighbours: zeros are exact on every grid, however many there are."""
    counts = np.asarray(density.counts, dtype=np.float64).copy()
    zero = int(np.searchsorted(density.edges, 0.0, side="right")) - 1
    if 0 <= zero < len(counts):
        beside = np.concatenate([counts[max(zero - 1, 0) : zero], counts[zero + 1 : zero + 2]])
        counts[zero] = min(counts[zero], beside.max(initial=0))
    return counts


def _around_zero(low: float, high: float) -> ActivationRange:
    return ActivationRange(min(float(low), 0.0), max(float(high), 0.0))
