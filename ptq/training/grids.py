"""Rounding to the nearest multiple of a step: what the tensors of the forward pass have in common.

The step of a weight is that of its numbers. That of an activation is found anew for every batch while the model trains
and remembered, so that in evaluation a sample does not depend on the others of its batch, and a file has one step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from ptq import formats
from ptq.rounding import nearest

MEMORY: Final = 0.9
"""The part of a remembered step that stays at every batch, as in BatchNorm."""


@dataclass(frozen=True)
class Grid:
    """Numbers of a format of integers times a step; how the step is found is up to subclasses."""

    fmt: str = "int4"

    def step(self, x: Tensor) -> Tensor:
        """What the integers are multiplied with, without dimensions; positive for zeros too."""
        raise NotImplementedError

    def __call__(self, x: Tensor, step: Tensor | None = None) -> Tensor:
        """Multiples of a step, of its own by default, in the shape and dtype of `x`; ties go to the even one."""
        step = self.step(x) if step is None else step
        return nearest(formats.get(self.fmt))(x / step).mul_(step)

    def written_out(self, x: Tensor, step: Tensor) -> Tensor:
        """The same in the four operators that `ptq.model.trained` knows a grid by, for graphs."""
        fmt = formats.get(self.fmt)
        return (x / step).round().clamp(fmt.min, fmt.max) * step


def positive(step: Tensor) -> Tensor:
    """A step that can be divided by."""
    return step.clamp_min(torch.finfo(step.dtype).tiny)
