"""How the scales of a weight are stored: in the narrowest of three ways that loses nothing.

Eight bits are steps of a sixteenth of an octave (`ulog8`) above a power of two that the weight has to itself. A scale
that is off by up to 2 % costs nothing when the integers are rounded on it, and 8 bits a row more go into points.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

from ptq import formats
from ptq.rounding import round_to

LOGARITHMIC = formats.get("ulog8")
_OCTAVES = math.frexp(LOGARITHMIC.max)[1]
_LEAST_UNIT = 2.0**-100


@dataclass(frozen=True)
class Coded:
    """Scales as `unit * ulog8[codes]`: the unit is a power of two, codes are uint8 in the shape of the scales."""

    unit: float
    codes: Tensor


def coded(scale: Tensor) -> Coded | None:
    """Float32 scales in eight bits each, exactly; None when they are not such numbers."""
    if not scale.numel() or not bool((scale > 0).all() and scale.isfinite().all()):
        return None
    unit = _unit_below(float(scale.max()))
    table = _table().to(scale.device)
    relative = scale.double() / unit
    codes = torch.searchsorted(table, relative).clamp_max(len(table) - 1)
    return Coded(unit, codes.to(torch.uint8)) if torch.equal(table[codes], relative) else None


def fits_bfloat16(scale: Tensor) -> bool:
    """Whether bfloat16 holds every scale."""
    return torch.equal(scale.bfloat16().double(), scale.double())


def storage_bits(scale: Tensor) -> int:
    """What all these scales take; the power of two they share is left out."""
    if coded(scale) is not None:
        return scale.numel() * LOGARITHMIC.bits
    return scale.numel() * (16 if fits_bfloat16(scale) else 32)


@dataclass(frozen=True)
class ScaleGrid:
    """The scales that the rows of a weight may have: multiples of `unit` in ulog8, or bfloat16 without a unit."""

    unit: float | None = None
    least: Tensor | None = None
    """A lower bound of each row's scale, `(groups, rows)`."""

    @classmethod
    def spanning(cls, low: float, high: float, least: Tensor | None = None) -> ScaleGrid:
        """A grid for scales between two positive numbers: of eight bits unless they are too far apart."""
        unit = _unit_below(high)
        return cls(unit if _LEAST_UNIT <= unit <= low else None, least)

    def snap(self, scale: Tensor) -> Tensor:
        """The nearest scales of the grid; positive, also where none were given."""
        if self.least is not None:
            scale = scale.maximum(self.least)
        if self.unit is not None:
            return round_to(LOGARITHMIC, scale / self.unit) * self.unit
        scale = scale.bfloat16().float()
        return torch.where(scale >= torch.finfo(torch.float32).tiny, scale, torch.ones_like(scale))


def _unit_below(largest: float) -> float:
    """The power of two with which the largest scale is in the last octave of ulog8."""
    return 2.0 ** (math.frexp(largest)[1] - _OCTAVES)


@cache
def _table() -> Tensor:
    return torch.tensor(LOGARITHMIC.values, dtype=torch.float64)
