"""Rounding to the nearest multiple of a step: what the tensors of the forward pass have in common.

The step of a weight is that of its numbers. That of an activation is found anew for every batch while the model trains
and remembered, so that in evaluation a sample does not depend on the others of its batch, and a file has one step.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from ptq import formats
from ptq.formats import Format
from ptq.rounding import nearest

MEMORY: Final = 0.9
"""The part of a remembered step that stays at every batch, as in BatchNorm."""


class Grid(ABC):
    """Integers times a step; how it is found is up to subclasses."""

    @property
    @abstractmethod
    def integers(self) -> Format:
        """What is multiplied with the step."""

    @abstractmethod
    def step(self, x: Tensor) -> Tensor:
        """That of a tensor, without dimensions; positive for zeros too."""

    def __call__(self, x: Tensor, step: Tensor | None = None) -> Tensor:
        """Multiples of a step, of its own by default, in the shape and dtype of `x`; ties go to the even one."""
        step = self.step(x) if step is None else step
        return nearest(self.integers)(x / step).mul_(step)

    def written_out(self, x: Tensor, step: Tensor) -> Tensor:
        """The same in the four operators that `ptq quantize` knows rounded activations by, for graphs."""
        return (x / step).round().clamp(self.integers.min, self.integers.max) * step


@dataclass(frozen=True)
class Maximum(Grid):
    """The largest magnitude stands on the largest number of a format of integers."""

    fmt: str = "int8"

    @property
    def integers(self) -> Format:
        """Those of the format."""
        return formats.get(self.fmt)

    def step(self, x: Tensor) -> Tensor:
        """The largest magnitude over the largest integer."""
        return positive(x.abs().max() / self.integers.max) if x.numel() else x.new_ones(())


def positive(step: Tensor) -> Tensor:
    """A step that can be divided by."""
    return step.clamp_min(torch.finfo(step.dtype).tiny)
