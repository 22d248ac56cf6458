"""Rounding to a format: the one place where a number becomes a number of the grid.

Rounding and format are independent of each other. LUQ's unbiased logarithmic rounding (arXiv:2112.10769, equations 10
to 16) is STOCHASTIC on powers of two with a zero, `luq_fp4` or `luq_fp4_paper`. In units of the smallest power:

- below it, |x| < 1: its sign times 1 with the probability |x|, else 0. That is the paper's stochastic underflow.
- from it on, low <= |x| < 2 low: 2 low with the probability (|x| - low) / low, else low. That is its log-SR.

Both are one rule for neighbours on the grid, zero being one of them, so E[round_to(x)] = x from -max to max.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum, auto
from functools import lru_cache
from types import MappingProxyType
from typing import Final, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ptq import formats
from ptq.errors import OptionError
from ptq.formats import MOST_KEPT, Format
from ptq.formats.minifloat import FLOAT16
from ptq.vectors import VectorFormat

TORCH_TYPES: Final[Mapping[str, torch.dtype]] = MappingProxyType(
    {
        "fp8_e5m2": torch.float8_e5m2,
        "fp8_e4m3fn": torch.float8_e4m3fn,
        "fp8_e5m2fnuz": torch.float8_e5m2fnuz,
        "fp8_e4m3fnuz": torch.float8_e4m3fnuz,
    }
)
"""Formats that torch has as types, by name (Dynamo reads no mapping with other keys).

Their casts round to nearest even, but have infinities or NaN above the largest number.
"""

_CASTS: Final = {formats.get(name): stored for name, stored in TORCH_TYPES.items()} | {FLOAT16: torch.float16}

_HALF: Final = 16
"""Bits of a float32 that tell numbers in a bucket apart; those above are the sign, the exponent and seven more."""

_MOST_BUCKETS: Final = 16
"""Of so many formats buckets are kept, which take three quarters of a megabyte."""

_MANY: Final = 1 << 12

_MOST_DISTANCES = 1 << 17
"""So many at a time stay in a processor's cache."""


class Rounding(Enum):
    """What happens between two neighbouring numbers of a format."""

    NEAREST_EVEN = auto()
    """To the nearest, of two equally near ones to that with the even code."""
    NEAREST_AWAY = auto()
    """To the nearest, of two equally near ones to that farther from 0.

    On powers of two it is LUQ's RDNP, 2^floor(log2(4/3 |x|)) (arXiv:2112.10769, equation 13), which rounds to the power
    that is nearest in the linear domain, not to the one whose logarithm is.
    """
    STOCHASTIC = auto()
    """To one of the two with the chances that make the mean `x`, and the variance (x - low) (high - x)."""


def round_to(
    fmt: Format, x: Tensor, mode: Rounding = Rounding.NEAREST_EVEN, generator: torch.Generator | None = None
) -> Tensor:
    """Numbers of the format for a floating tensor, in its shape and dtype, which has to hold them.

    It saturates, infinities too, and NaN stays NaN. A zero has the sign of `x` where the format has a negative one, and
    none elsewhere.

    Raises:
        OptionError: stochastic rounding without a generator, or to vectors.

    """
    if mode is not Rounding.STOCHASTIC:
        return nearest(fmt, away=mode is Rounding.NEAREST_AWAY)(x)
    if fmt.span > 1:
        raise OptionError(f"stochastic rounding is between two numbers, and {fmt.name} has vectors; round to nearest")
    if generator is None:
        raise OptionError("stochastic rounding has no generator; pass a seeded torch.Generator")
    return stochastic(fmt, x, torch.rand(x.shape, generator=generator, dtype=torch.float64, device=x.device))


def nearest(fmt: Format, *, away: bool = False, inplace: bool = False) -> Callable[[Tensor], Tensor]:
    """`round_to` the nearest number, for loops that round many small tensors to one format; `away` is where ties go.

    What it rounds may be overwritten where it is `inplace`.
    """
    if isinstance(fmt, VectorFormat):
        return _by_vectors(fmt)
    if is_integer_grid(fmt) and not away:
        low, high, to_integer = fmt.min, fmt.max, torch.round_ if inplace else torch.round
        return lambda x: to_integer(x).clamp_(low, high).add_(0.0)  # -0 + 0 is 0
    return _by_casts(fmt, _CASTS[fmt]) if fmt in _CASTS and not away else _by_table(fmt, away=away)


def nearest_vectors(fmt: VectorFormat) -> Callable[[Tensor, Tensor], Tensor]:
    """Rounding of vectors `(groups, rows, k)` to those of a format with the least `|(x - q) R|`, `R (groups, k, k)`.

    Where `k` is less than the span of the format, what its vectors have behind is left out.
    """
    whole = _book(fmt)

    def from_book(x: Tensor, root: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        book = whole[:, : x.shape[-1]].to(wide)
        root = (root / root.abs().amax((-2, -1), keepdim=True)).to(wide)
        seen = book @ root
        scores = torch.cat([-root @ seen.mT, seen.square().sum(-1)[:, None] / 2], 1)  # of x and 1
        known = torch.cat([wide, torch.ones_like(wide[..., :1])], -1)
        parts = torch.split(known, max(1, _MOST_DISTANCES // (len(book) * len(x))), 1)
        nearest = [_least(part, scores) for part in parts]
        return book[torch.cat(nearest, 1)].to(x.dtype)

    return from_book


def _least(known: Tensor, scores: Tensor) -> Tensor:
    """Which of the products with scores is the least; NumPy is 5 times as fast in both as torch."""
    products: np.ndarray = known.detach().cpu().numpy() @ scores.detach().cpu().numpy()
    return torch.from_numpy(products.argmin(-1)).to(known.device)


def _by_vectors(fmt: VectorFormat) -> Callable[[Tensor], Tensor]:
    """Numbers along the last axis go together; what is no whole vector at its end, by itself."""
    vectors = nearest_vectors(fmt)

    def from_vectors(x: Tensor) -> Tensor:
        rest = x.shape[-1] % fmt.span
        parts = (part for part in torch.split(x, [x.shape[-1] - rest, rest], -1) if part.numel())
        sizes = (fmt.span, rest) if x.shape[-1] > rest else (rest,)
        rounded = [
            vectors(part.reshape(1, -1, size), torch.eye(size).to(x)[None]).reshape(part.shape)
            for part, size in zip(parts, sizes, strict=False)
        ]
        return torch.cat(rounded, -1) if rounded else x.clone()

    return from_vectors


def _by_casts(fmt: Format, stored: torch.dtype) -> Callable[[Tensor], Tensor]:
    """The table's numbers bit by bit, 10 to 30 times as fast; only float64 would be rounded twice."""
    low, high, search = fmt.min, fmt.max, _by_search(fmt, away=False)

    def from_casts(x: Tensor) -> Tensor:
        return search(x) if x.dtype == torch.float64 else x.clamp(low, high).to(stored).to(x.dtype)

    return from_casts


def _by_table(fmt: Format, *, away: bool) -> Callable[[Tensor], Tensor]:
    """By buckets where there are many numbers: until then a search takes less than to make them."""
    search = _by_search(fmt, away=away)

    def from_table(x: Tensor) -> Tensor:
        buckets = _buckets(fmt, x.device, away=away) if _suits_buckets(x) else None
        return search(x) if buckets is None else buckets.rounded(x)

    return from_table


def _suits_buckets(x: Tensor) -> bool:
    """Whether there are many float32 numbers, and nobody follows them who knows nothing of bits."""
    followed = torch.compiler.is_compiling() or (x.requires_grad and torch.is_grad_enabled())
    return x.dtype == torch.float32 and x.numel() >= _MANY and not followed


def _by_search(fmt: Format, *, away: bool) -> Callable[[Tensor], Tensor]:
    table, boundaries = _table(fmt), _boundaries(fmt, away=away)

    def from_search(x: Tensor) -> Tensor:
        index = torch.searchsorted(boundaries.to(x.device), x.double().contiguous())  # torch warns of others
        return _finished(fmt, x, table.to(x.device)[index])

    return from_search


class _Buckets(NamedTuple):
    """What float32 numbers become, by their upper half: that says it all but where one boundary is in a bucket.

    Of bucket `b`, in the order of int16, numbers up to `boundary[b]` become `ends[2 b + 1]` and others `ends[2 b]`. It
    is 20 times as fast as a search, which no processor foresees.
    """

    boundary: Tensor
    ends: Tensor

    @classmethod
    def of(cls, fmt: Format, *, away: bool) -> _Buckets | None:
        """Those of a format; None where boundaries are nearer to each other."""
        upper = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32)[:, None] << _HALF
        least, most = (upper | torch.tensor([0, (1 << _HALF) - 1], dtype=torch.int32)).view(torch.float32).unbind(1)
        infinite = torch.inf * torch.where(upper[:, 0] < 0, -1.0, 1.0)  # where only NaN is, or is beside it
        low, high = (torch.where(end.isnan(), infinite, end).double() for end in (least, most))
        low, high = low.minimum(high), low.maximum(high)
        boundaries, numbers = _boundaries(fmt, away=away), _table(fmt).float()
        first, last = (torch.searchsorted(boundaries, end) for end in (low, high))
        if bool((last - first > 1).any()):
            return None
        boundary = boundaries[first.clamp_max(len(boundaries) - 1)]
        boundary = torch.where(first < last, _below(boundary), torch.inf)
        ends = torch.stack([numbers[last], numbers[first]], 1)
        if fmt.has_negative_zero:
            ends = ends.copysign(infinite[:, None])  # no other number changes its sign when it is rounded
        ends[:, 0] = torch.where(most.isnan(), torch.nan, ends[:, 0])
        return cls(boundary, ends.flatten())

    def rounded(self, x: Tensor) -> Tensor:
        """The numbers for `x`, float32; NaN is not up to any boundary."""
        bucket = (x.view(torch.int32) >> _HALF).add_(1 << 15).flatten()
        below = x.flatten() <= self.boundary.index_select(0, bucket)
        found = self.ends.index_select(0, bucket.mul_(2).add_(below)).view(x.shape)
        return found if x.is_contiguous() else torch.empty_like(x).copy_(found)  # in memory as `x`, like others


def stochastic(fmt: Format, x: Tensor, uniform: Tensor) -> Tensor:
    """`round_to` by chance: the upper neighbour where `uniform`, float64 in [0, 1), is below the part of the way to it.

    Both have 53 bits, so that a mean is off by less than 2^-52 of the gap between the neighbours.
    """
    inside = x.double().clamp(fmt.min, fmt.max)
    low, high = neighbours(fmt, inside)
    return _finished(fmt, x, torch.where(uniform * (high - low) < inside - low, high, low))


def neighbours(fmt: Format, x: Tensor) -> tuple[Tensor, Tensor]:
    """The largest number of the format up to `x` and the next, or the last two of its end; in the dtype of `x`."""
    table = _table(fmt).to(x.device)
    upper = torch.searchsorted(table, x.double().contiguous(), right=True).clamp(1, len(table) - 1)
    return table[upper - 1].to(x.dtype), table[upper].to(x.dtype)


def _finished(fmt: Format, x: Tensor, rounded: Tensor) -> Tensor:
    """As `x` in dtype, in what is NaN, and in the sign of a zero where the format has two."""
    rounded = rounded.to(x.dtype)
    if fmt.has_negative_zero:
        rounded = rounded.copysign(x)  # no other number changes its sign when it is rounded
    return torch.where(x.isnan(), x, rounded)


@lru_cache(MOST_KEPT)
def _table(fmt: Format) -> Tensor:
    return torch.tensor(fmt.values, dtype=torch.float64)


@lru_cache(MOST_KEPT)
def _book(fmt: VectorFormat) -> Tensor:
    return torch.tensor(fmt.book, dtype=torch.float64)


@lru_cache(MOST_KEPT)
def is_integer_grid(fmt: Format) -> bool:
    """Whether the format is consecutive integers with codes as even as they are: torch rounds those by itself."""
    pairs = enumerate(zip(fmt.values, fmt.codes, strict=True))
    return all(value == fmt.min + i and value % 1 == 0 == (code - value) % 2 for i, (value, code) in pairs)


@lru_cache(MOST_KEPT)
def _boundaries(fmt: Format, *, away: bool) -> Tensor:
    """Where the nearest number changes, float64; a number at a boundary belongs below it.

    A boundary is halfway, or just under it when the tie goes to the upper number.
    """
    values = _table(fmt)
    even = torch.tensor(fmt.codes) % 2 == 0
    halfway = (values[:-1] + values[1:]) / 2
    up = halfway > 0 if away else even[1:] & ~even[:-1]
    return torch.where(up, _next_below(halfway), halfway)


@lru_cache(_MOST_BUCKETS)
def _buckets(fmt: Format, device: torch.device, *, away: bool) -> _Buckets | None:
    found = _Buckets.of(fmt, away=away)
    return None if found is None else _Buckets(*(each.to(device) for each in found))


def _next_below(x: Tensor) -> Tensor:
    return torch.nextafter(x, torch.full_like(x, -torch.inf))


def _below(x: Tensor) -> Tensor:
    """The largest float32 up to numbers of float64."""
    rounded = x.float()
    return torch.where(rounded.double() > x, _next_below(rounded), rounded)
