"""Rounding to a format: the one place where a number becomes a number of the grid."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum, auto
from functools import cache

import torch
from torch import Tensor

from ptq.errors import OptionError
from ptq.formats import Format


class Rounding(Enum):
    """What happens between two neighbouring numbers of a format."""

    NEAREST_EVEN = auto()
    STOCHASTIC = auto()


def round_to(
    fmt: Format, x: Tensor, mode: Rounding = Rounding.NEAREST_EVEN, generator: torch.Generator | None = None
) -> Tensor:
    """Numbers of the format for a floating tensor, in its shape and dtype; saturates, and NaN stays NaN.

    NEAREST_EVEN takes the nearest number, of two equally near ones that with the even code. STOCHASTIC takes one of
    the two neighbours so that the mean is `x`.

    Raises:
        OptionError: stochastic rounding without a generator.

    """
    if mode is Rounding.STOCHASTIC:
        if generator is None:
            raise OptionError("stochastic rounding has no generator; pass a seeded torch.Generator")
        return _stochastic(fmt, x, generator)
    return nearest(fmt)(x)


def nearest(fmt: Format) -> Callable[[Tensor], Tensor]:
    """`round_to` the nearest number, for loops that round many small tensors to one format."""
    if _is_integer_grid(fmt):
        low, high = fmt.min, fmt.max
        return lambda x: x.round().clamp(low, high)
    table, boundaries = _table(fmt), _boundaries(fmt)

    def from_table(x: Tensor) -> Tensor:
        index = torch.searchsorted(boundaries.to(x.device), x.double().contiguous())  # torch warns of others
        return _kept_nan(x, table.to(x.device)[index])

    return from_table


def _stochastic(fmt: Format, x: Tensor, generator: torch.Generator) -> Tensor:
    table = _table(fmt).to(x.device)
    inside = x.double().clamp(fmt.min, fmt.max)
    upper = torch.searchsorted(table, inside, right=True).clamp(1, len(table) - 1)
    low, high = table[upper - 1], table[upper]
    chance = torch.rand(x.shape, generator=generator, dtype=torch.float64, device=x.device)
    return _kept_nan(x, torch.where(chance * (high - low) < inside - low, high, low))


def _kept_nan(x: Tensor, rounded: Tensor) -> Tensor:
    return torch.where(x.isnan(), x, rounded.to(x.dtype))


@cache
def _table(fmt: Format) -> Tensor:
    return torch.tensor(fmt.values, dtype=torch.float64)


@cache
def _is_integer_grid(fmt: Format) -> bool:
    """Whether the format is consecutive integers with codes as even as they are: torch rounds those by itself."""
    pairs = enumerate(zip(fmt.values, fmt.codes, strict=True))
    return all(value == fmt.min + i and value % 1 == 0 == (code - value) % 2 for i, (value, code) in pairs)


@cache
def _boundaries(fmt: Format) -> Tensor:
    """Where the nearest number changes, float64; a number at a boundary belongs below it.

    A boundary is halfway, or just under it when the tie goes to the upper number.
    """
    values = _table(fmt)
    even = torch.tensor(fmt.codes) % 2 == 0
    halfway = (values[:-1] + values[1:]) / 2
    below = torch.nextafter(halfway, torch.tensor(-torch.inf, dtype=torch.float64))
    return torch.where(even[1:] & ~even[:-1], below, halfway)
