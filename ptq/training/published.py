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
from ptq.training.grids import Grid, positive
from ptq.training.sawb import clip


@dataclass(frozen=True)
class PublishedSawb(Grid):
    """Integers of `signed` times a step, which is that of `unsigned` for a tensor without negative numbers.

    The released code keeps to `signed` once a tensor of a layer had a negative number, this has no memory.
    """

    signed: Integers
    unsigned: Integers

    @property
    def integers(self) -> Integers:
        """All that occur."""
        return self.signed

    def step(self, x: Tensor) -> Tensor:
        """What the integers are multiplied with; positive for zeros too."""
        signed, unsigned = (float(each.high - each.low) for each in (self.signed, self.unsigned))
        return positive(2 * clip(x, "luq") / torch.where((x < 0).any(), signed, unsigned).to(x))


_WIDE: Final = Integers.between(-8, 8)
WEIGHTS: Final = PublishedSawb(_WIDE, _WIDE)
"""Of the released code."""
ACTIVATIONS: Final = PublishedSawb(Integers.between(-8, 15), Integers.between(0, 15))
"""Of the released code."""
