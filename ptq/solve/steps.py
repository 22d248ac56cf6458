"""Scales and zero points of weights that are rounded to nearest: of several the best."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from ptq.chunks import weight_chunks
from ptq.formats import Format
from ptq.solve.feedback import nearest_rows


class Steps(NamedTuple):
    """Scales as they are stored and the zero points that go with them, `(g, rows, groups)`."""

    scale: Tensor
    zero: Tensor | None = None

    def of_rows(self, at: slice) -> Steps:
        """Those of some rows."""
        return Steps(self.scale[:, at], None if self.zero is None else self.zero[:, at])


def errors(parts: Tensor, tried: Sequence[Steps], fmt: Format, importance: Tensor | None = None) -> Tensor:
    """The squared errors of groups `(g, rows, groups, size)` rounded to nearest with each of some steps.

    Each weight counts as the importance says, `(g, 1, groups, size)`, or all alike. What is returned is
    `(tried, g, rows, groups)`.
    """
    found = []
    for at in weight_chunks(parts):
        each = _errors(parts[:, at], [steps.of_rows(at) for steps in tried], fmt, importance)
        found.append(torch.stack(list(each)))
    return torch.cat(found, 2)


def _errors(parts: Tensor, tried: Sequence[Steps], fmt: Format, importance: Tensor | None) -> Iterator[Tensor]:
    """In one piece of memory, which stays in the cache, and in which what is summed lies as it does in the parts."""
    found = parts.neg()
    for scale, zero in tried:
        wide, shift = scale[..., None], None if zero is None else zero[..., None]
        nearest_rows(parts, wide, fmt, shift, out=found).mul_(wide)
        squares = torch.sub(parts, found, out=found).square_()
        yield (squares if importance is None else squares.mul_(importance)).sum(-1)


def best_of(tried: Sequence[Steps], errors: Tensor) -> Steps:
    """For each group the steps of least error, of equals the first; errors are `(tried, g, rows, groups)`."""
    (scale, zero), least = tried[0], errors[0]
    for steps, error in zip(tried[1:], errors[1:], strict=True):
        better = error < least
        least = torch.where(better, error, least)
        scale = torch.where(better, steps.scale, scale)
        zero = None if zero is None or steps.zero is None else torch.where(better, steps.zero, zero)
    return Steps(scale, zero)
