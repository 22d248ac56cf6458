"""Weights that lie on a grid of their format already, such as those of a network trained in few bits: kept as they are.

A search for scales by error would come near, not to the very scales, and store them in steps of a sixteenth of an
octave.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import torch
from torch import Tensor

from ptq.chunks import chunks
from ptq.formats import INT8_MAX
from ptq.formats.integer import IntFormat
from ptq.ladder import Ladder
from ptq.qtensor import Term
from ptq.scheme import Scheme
from ptq.solve.curvature import Curvature

_OFF: Final = 2.0**-12
"""How far from an integer a weight may be, in steps: what float32 leaves of it when a BatchNorm is folded in."""

_SOME: Final = 8
"""So many rows, at least, are looked at before all others: those of ordinary weights are on no grid."""


def on_grid(weight: Tensor, scheme: Scheme, curvature: Curvature, most: int = INT8_MAX) -> Ladder | None:
    """The one term that a weight `(groups, rows, in)` is; None where it is not all integers of a scale a row.

    One scale for the whole weight, if that does. `most` is the largest integer.
    """
    fmt = scheme.format
    if not isinstance(fmt, IntFormat) or not fmt.signed or scheme.group is not None:
        return None
    rows, limit = weight.flatten(0, 1), min(int(fmt.max), most)
    some = rows[:: max(1, len(rows) // _SOME)]
    if _scale(some, limit, shared=False) is None:
        return None
    scale = _scale(rows, limit, shared=True)
    if scale is None and not scheme.per_tensor:
        scale = _scale(rows, limit, shared=False)
    if scale is None:
        return None
    values = torch.cat([steps.round().float() for steps in _steps(rows, scale)])
    term = Term(values, scale.flatten().float().contiguous(), fmt)
    return Ladder(((term,),), torch.zeros(1, len(rows)), curvature.power(weight).reshape(-1))


def _scale(rows: Tensor, limit: int, *, shared: bool) -> Tensor | None:
    """The coarsest scales `(rows, 1)` with which all numbers are integers up to `limit`; 1 for zeros.

    One for each row, or the same where it is `shared`. None where there are none.
    """
    largest = rows.abs().amax(1, keepdim=True).double()
    if shared:
        largest = largest.amax().expand_as(largest)
    scale = torch.full_like(largest, torch.nan)
    for integer in range(1, limit + 1):
        candidate = torch.where(largest > 0, largest / integer, 1.0)
        off = torch.cat([(steps - steps.round()).abs().amax(1, keepdim=True) for steps in _steps(rows, candidate)])
        fits = off <= _OFF
        fits = fits.all().expand_as(fits) if shared else fits
        scale = torch.where(scale.isnan() & fits, candidate, scale)
        if not bool(scale.isnan().any()):
            return scale
    return None


def _steps(rows: Tensor, scale: Tensor) -> Iterator[Tensor]:
    """Rows in units of their scales, some at a time; float64."""
    return (rows[at].double() / scale[at] for at in chunks(*rows.shape))
