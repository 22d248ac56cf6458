"""LUQ's forward pass with the sizes of its released code, which is not quite 4 bits (arXiv:2112.10769).

The code has SAWB's clip with `c1 = 12.1` and `c2 = 12.2`, and multiples of `2 clip / (high - low)`: weights from -8 to
8, which are 17 numbers; activations from 0 to 15, or from -8 to 15 once one was negative. Which sizes the tables of
the paper are for is not known.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from ptq.formats.integer import Integers
from ptq.rounding import nearest
from ptq.training.sawb import clip


@dataclass(frozen=True)
class PublishedSawb:
    """Rounding to the nearest multiple of a step, from `low` to the largest integer; `negative` is the low of others.

    Those are the tensors with a negative number. The released code never goes back from there, this has no memory.
    """

    integers: Integers
    low: int
    negative: int

    def lowest(self, x: Tensor) -> Tensor:
        """The integer to clip at below, of a tensor; without dimensions."""
        return torch.where((x < 0).any(), float(self.negative), float(self.low)).to(x)

    def step(self, x: Tensor) -> Tensor:
        """What the integers are multiplied with; positive for zeros too."""
        steps = self.integers.limit - self.lowest(x)
        return (2 * clip(x, "luq") / steps).clamp_min(torch.finfo(x.dtype).tiny)

    def __call__(self, x: Tensor) -> Tensor:
        """Multiples of the step, in the shape and dtype of `x`; ties go to the even one."""
        step = self.step(x)
        return nearest(self.integers)(x / step).clamp_min_(self.lowest(x)).mul_(step)


WEIGHTS: Final = PublishedSawb(Integers.up_to(8), -8, -8)
"""Of the released code."""
ACTIVATIONS: Final = PublishedSawb(Integers.up_to(15), 0, -8)
"""Of the released code."""
