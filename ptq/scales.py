"""How the scales of a weight are stored: in the narrowest of three ways that loses nothing.

Eight bits are steps of a sixteenth of an octave (`ulog8`) above a power of two that the weight has to itself. A scale
that is off by up to 2 % costs nothing when the integers are rounded on it, and 8 bits a row more go into points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache, lru_cache

import torch
from torch import Tensor

from ptq import formats
from ptq.formats import MOST_KEPT, Format
from ptq.formats.integer import Integers
from ptq.rounding import round_to

LOGARITHMIC = formats.get("ulog8")
_LEAST_UNIT = 2.0**-100
"""Below this, what scales are multiples of could leave the normal numbers of float32."""

_FEW = 4


@dataclass(frozen=True)
class Coded:
    """Scales as `unit * ulog8[codes]`: the unit is a power of two, codes are uint8 in the shape of the scales."""

    unit: float
    codes: Tensor


def coded(scale: Tensor) -> Coded | None:
    """Float32 scales in eight bits each, exactly; None when they are not such numbers."""
    if not scale.numel() or not bool((scale > 0).all() and scale.isfinite().all()):
        return None
    unit = unit_below(float(scale.max()))
    table = _table().to(scale.device)
    relative = scale.double() / unit
    codes = torch.searchsorted(table, relative).clamp_max(len(table) - 1)
    return Coded(unit, codes.to(torch.uint8)) if torch.equal(table[codes], relative) else None


def fits_bfloat16(scale: Tensor) -> bool:
    """Whether bfloat16 holds every scale."""
    return torch.equal(scale.bfloat16().double(), scale.double())


def storage_bits(scale: Tensor) -> int:
    """What all these scales take; the power of two they share is left out, and scales that are equal count once."""
    if is_shared(scale):
        return 32
    if coded(scale) is not None:
        return scale.numel() * LOGARITHMIC.bits
    return scale.numel() * (16 if fits_bfloat16(scale) else 32)


def is_shared(scale: Tensor) -> bool:
    """Whether all of several scales are one."""
    return scale.numel() > _FEW and bool((scale == scale.reshape(-1)[0]).all())


@dataclass(frozen=True)
class ScaleGrid:
    """The scales that weights may have: multiples of `unit` by numbers of a format, or bfloat16 without a unit.

    The unit is a number, or a tensor that goes with the scales; with no format, all multiples are there. `least` bounds
    the scales from below.
    """

    unit: float | Tensor | None = None
    least: Tensor | None = None
    format: Format | None = LOGARITHMIC

    @classmethod
    def spanning(cls, low: float, high: float, least: Tensor | None = None) -> ScaleGrid:
        """A grid for scales between two positive numbers: of eight bits unless they are too far apart."""
        unit = unit_below(high)
        return cls(unit if _LEAST_UNIT < unit <= low else None, least)

    @classmethod
    def exact(cls, least: Tensor | None = None) -> ScaleGrid:
        """Scales as they are, in float32."""
        return cls(1.0, least, None)

    @classmethod
    def of_one(cls, scale: Tensor) -> ScaleGrid:
        """The grid of one scale, a tensor without axes."""
        return cls(scale, None, Integers.between(1, 1))

    def of_rows(self, at: slice) -> ScaleGrid:
        """That of some of the rows of scales `(groups, rows, …)`."""
        unit = self.unit[:, at] if isinstance(self.unit, Tensor) and self.unit.ndim else self.unit
        least = self.least[:, at] if self.least is not None and self.least.ndim else self.least
        return ScaleGrid(unit, least, self.format)

    def snap(self, scale: Tensor) -> Tensor:
        """The nearest scales of the grid; positive, also where none were given."""
        if self.least is not None:
            scale = scale.maximum(self.least)
        if self.unit is not None and self.format is not None:
            return round_to(self.format, scale / self.unit).clamp_min(_least(self.format)) * self.unit
        if self.unit is None:
            scale = scale.bfloat16().float()
        return torch.where(scale >= torch.finfo(torch.float32).tiny, scale, torch.ones_like(scale))


def unit_below(largest: float, fmt: Format = LOGARITHMIC) -> float:
    """The power of two with which the largest scale is in the last octave of a format."""
    return max(2.0 ** (math.frexp(largest)[1] - math.frexp(fmt.max)[1]), _LEAST_UNIT)


@lru_cache(MOST_KEPT)
def _least(fmt: Format) -> float:
    """The smallest positive number."""
    return next(value for value in fmt.values if value > 0)


@cache
def _table() -> Tensor:
    return torch.tensor(LOGARITHMIC.values, dtype=torch.float64)
