"""Running statistics of tensors: what they need to keep does not grow with the number of samples.

Every observer is a monoid: `add` and `merge` may come in any order and any split and give the same statistics, to the
last bit for ranges and histograms, and for sums within the limits that `Moments` and `Mean` name.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ptq.errors import DataError

MOST_BINS = 2048
_LEAST_EXPONENT = -1000
_SAFE_EXPONENT = 100
"""Up to here scaling by a power of two is exact in float32."""

_KEPT_BITS = 26
_BLOCK_ELEMENTS = 1 << 17
"""What caches hold of a second moment."""


@dataclass
class Range:
    """The smallest and the largest number seen."""

    low: float = math.inf
    high: float = -math.inf

    def add(self, low: float, high: float) -> None:
        """See numbers from `low` to `high`.

        Raises:
            DataError: one of them is not finite.

        """
        if not (math.isfinite(low) and math.isfinite(high)):
            raise DataError(f"an activation reaches {low}..{high}, not finite; check the data and the model")
        self.low, self.high = min(self.low, low), max(self.high, high)

    def merge(self, other: Range) -> None:
        """See what another has seen."""
        self.low, self.high = min(self.low, other.low), max(self.high, other.high)


@dataclass(frozen=True)
class Density:
    """A histogram: `counts (bins,)` between `edges (bins + 1,)`, and the smallest and largest number seen."""

    counts: NDArray[np.int64]
    edges: NDArray[np.float64]
    low: float
    high: float


@dataclass
class Histogram:
    """Counts in bins of a width that is a power of two, the edges at its multiples.

    When the numbers need more bins than allowed, the width doubles and pairs of bins become one. As every edge of the
    wider bins is one of the narrower, the counts do not depend on the order in which the numbers came.
    """

    exponent: int | None = None
    first: int = 0
    counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    range: Range = field(default_factory=Range)

    def add(self, values: NDArray[Any]) -> None:
        """Count numbers of any shape."""
        values = np.asarray(values).reshape(-1)
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        self.range.add(low, high)
        exponent = _exponent(self.range)
        first = math.floor(low / 2.0**exponent)
        if values.dtype != np.float32 or abs(exponent) > _SAFE_EXPONENT:
            values = values.astype(np.float64)
        bins = np.floor(values * values.dtype.type(2.0**-exponent)).astype(np.int32)
        counts = np.bincount(bins - np.int32(first))
        self._join(Histogram(exponent, first, counts.astype(np.int64), Range(low, high)))

    def merge(self, other: Histogram) -> None:
        """Count what another has counted."""
        if other.exponent is None:
            return
        self.range.merge(other.range)
        self._join(other)

    def result(self) -> Density:
        """What was counted.

        Raises:
            DataError: nothing was.

        """
        if self.exponent is None:
            raise DataError("a histogram has seen no numbers; feed at least one sample")
        edges = np.arange(self.first, self.first + len(self.counts) + 1, dtype=np.float64) * 2.0**self.exponent
        return Density(self.counts, edges, self.range.low, self.range.high)

    def _join(self, other: Histogram) -> None:
        exponent = _exponent(self.range)
        parts = [part._coarser(exponent) for part in (self, other) if part.exponent is not None]
        first = min(start for start, _ in parts)
        total = np.zeros(max(start + len(counts) for start, counts in parts) - first, np.int64)
        for start, counts in parts:
            total[start - first : start - first + len(counts)] += counts
        self.exponent, self.first, self.counts = exponent, first, total

    def _coarser(self, exponent: int) -> tuple[int, NDArray[np.int64]]:
        if self.exponent is None or exponent == self.exponent:
            return self.first, self.counts
        shrink = 2.0 ** (self.exponent - exponent)
        bins = np.floor((self.first + np.arange(len(self.counts))) * shrink).astype(np.int64)
        return int(bins[0]), np.bincount(bins - bins[0], self.counts).astype(np.int64)


def _exponent(seen: Range) -> int:
    """The smallest power of two as a bin width with which the range takes at most `MOST_BINS` bins.

    It depends on the range alone, so that it is the same in whatever order the range was found.
    """
    widest = max(abs(seen.low), abs(seen.high))
    return max(math.frexp(widest)[1] + 1 - (MOST_BINS.bit_length() - 1), _LEAST_EXPONENT) if widest else _LEAST_EXPONENT


@dataclass(frozen=True)
class Moment:
    """Mean of `x x^T` `(groups, in, in)` and of `x` `(groups, in)` over `count` vectors; float64."""

    gram: Tensor
    mean: Tensor
    count: int

    def centred(self) -> Tensor:
        """The covariance, `(groups, in, in)`."""
        of_mean = self.mean[:, :, None] * self.mean[:, None, :]
        return torch.sub(self.gram, of_mean, out=of_mean)


@dataclass
class Moments:
    """Sums of `x x^T` and `x` over vectors `x`.

    What a batch adds is first rounded to `_KEPT_BITS` below the largest that it could be by the diagonal of its gram,
    which is finer than what float32 knows of it. The float64 sums of such numbers are exact, so that their order does
    not matter, until the number of batches times the ratio between the largest and the smallest mean square of an input
    in a batch comes to `2 ** (51 - _KEPT_BITS)`; behind that they are rounded as usual, by 1 in `2 ** 53`.
    """

    gram: Tensor | None = None
    total: Tensor | None = None
    count: int = 0

    def add(self, vectors: Tensor) -> None:
        """See vectors `(groups, samples, in)`; within a batch in float32, over batches in float64."""
        vectors = vectors.float()
        gram = vectors.transpose(1, 2) @ vectors
        if not gram.diagonal(dim1=-2, dim2=-1).isfinite().all():  # squares overflow long before the numbers do
            vectors = vectors.double()
            gram = vectors.transpose(1, 2) @ vectors
        ends = _power_of_two_above(gram.diagonal(dim1=-2, dim2=-1).sqrt())
        count = torch.tensor(vectors.shape[1])
        sums = _rounded(vectors.sum(1).double(), ends * _power_of_two_above(count.sqrt()))
        self._add(gram, ends, sums, vectors.shape[1])

    def merge(self, other: Moments) -> None:
        """See what another has seen."""
        if other.gram is not None and other.total is not None:
            gram, total = self._sums(*other.gram.shape[:2])
            gram += other.gram
            total += other.total
            self.count += other.count

    def result(self) -> Moment:
        """The means.

        Raises:
            DataError: nothing was seen, or it was not finite.

        """
        if self.gram is None or self.total is None or not self.count:
            raise DataError("no activations were seen; feed at least one sample")
        if not (self.gram.isfinite().all() and self.total.isfinite().all()):
            raise DataError("the activations are not finite; check the data and the model")
        return Moment(self.gram / self.count, self.total / self.count, self.count)

    def _add(self, found: Tensor, ends: Tensor, sums: Tensor, count: int) -> None:
        gram, total = self._sums(*ends.shape)
        step = -(-_BLOCK_ELEMENTS // max(ends.numel(), 1))
        for start in range(0, ends.shape[1], step):
            rows = slice(start, start + step)
            gram[:, rows] += _rounded(found[:, rows].double(), ends[:, rows, None] * ends[:, None])
        total += sums
        self.count += count

    def _sums(self, groups: int, columns: int) -> tuple[Tensor, Tensor]:
        if self.gram is None or self.total is None:
            self.gram = torch.zeros((groups, columns, columns), dtype=torch.float64)
            self.total = torch.zeros((groups, columns), dtype=torch.float64)
        return self.gram, self.total


def _power_of_two_above(values: Tensor) -> Tensor:
    """Powers of two that are not below the values, float64."""
    exponents = torch.frexp(values.double()).exponent
    return torch.ldexp(torch.ones_like(values, dtype=torch.float64), exponents)


def _rounded(values: Tensor, ends: Tensor) -> Tensor:
    """Numbers of float64 within powers of two, rounded to multiples of those times `2 ** -_KEPT_BITS`; in place."""
    shift = ends * (1.5 * 2.0 ** (52 - _KEPT_BITS))  # of a sum with it, the last bit is worth just that
    return values.add_(shift).sub_(shift)


@dataclass
class Mean:
    """The mean of vectors, from means over parts of them.

    The sum is of twice the bits of float64, `total + rest`, so that the mean is the same in whatever order they came,
    but for one rounding in about `2 ** 50`.
    """

    total: Tensor | None = None
    rest: Tensor | None = None
    weight: float = 0.0

    def add(self, mean: Tensor, weight: float) -> None:
        """See a mean `(n,)` of so many vectors."""
        total = mean.double() * weight
        self.merge(Mean(total, torch.zeros_like(total), weight))

    def merge(self, other: Mean) -> None:
        """See what another has seen."""
        if other.total is None or other.rest is None:
            return
        if self.total is None or self.rest is None:
            self.total, self.rest = torch.zeros_like(other.total), torch.zeros_like(other.rest)
        total = self.total + other.total
        mine = total - other.total  # as it is in the sum; what is lost of both is exact (Knuth, TAOCP 4.2.2)
        self.rest += (self.total - mine) + (other.total - (total - mine)) + other.rest
        self.total = total
        self.weight += other.weight

    def result(self) -> Tensor:
        """The mean, float64.

        Raises:
            DataError: nothing was seen, or it was not finite.

        """
        if self.total is None or self.rest is None or not self.total.isfinite().all():
            raise DataError("the activations are missing or not finite; check the data and the model")
        return (self.total + self.rest) / self.weight


@dataclass
class Channels:
    """The ends of the channels of vectors and the means of their squares, `(n,)` each."""

    low: Tensor
    high: Tensor
    squares: Mean = field(default_factory=Mean)

    @classmethod
    def of(cls, count: int) -> Channels:
        """So many channels of which nothing is known."""
        return cls(torch.full((count,), math.inf), torch.full((count,), -math.inf))

    @property
    def power(self) -> Tensor:
        """The means of the squares."""
        return self.squares.result()

    def add(self, low: Tensor, high: Tensor, power: Tensor, weight: float) -> None:
        """See vectors between two, with these means of squares over so many."""
        self.low, self.high = torch.minimum(self.low, low), torch.maximum(self.high, high)
        self.squares.add(power, weight)

    def merge(self, other: Channels) -> None:
        """See what another has seen."""
        self.low, self.high = torch.minimum(self.low, other.low), torch.maximum(self.high, other.high)
        self.squares.merge(other.squares)
