"""Unified INT8 training: a clip of the gradient that keeps its direction (Zhu et al., arXiv:1912.12607).

Direction sensitive gradient clipping takes the clip with the least `1 - cos(g, Q(g))`, and the chosen one rounds by
chance. As far as we could confirm it, from summaries by others, the paper descends to that clip by gradients and does
so now and then; here it is the best of a few parts of the maximum, at every step.

Its deviation counteractive learning rate scaling, `max(exp(-20 d), 0.1)` for the distance `d` of a layer, is left out:
a rule sees the gradient that goes on to the layers below too, and what it scaled would be scaled in all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from ptq import formats
from ptq.rounding import nearest
from ptq.training.gradients import Aligned, largest_magnitude

PARTS: Final = tuple(2.0 ** (-half / 2) for half in range(8))
"""Of the maximum, down to a twelfth; half an octave between neighbours."""


@dataclass(frozen=True)
class DirectionSensitive:
    """Stochastic rounding to a format whose largest number is that part of the maximum which turns the tensor least."""

    fmt: str = "int8"
    parts: tuple[float, ...] = PARTS

    def clip(self, x: Tensor) -> Tensor:
        """Where to clip, without dimensions; the cosines are those of rounding to nearest, which chance has no say in.

        Without branches or a look at the numbers, so that it compiles to one graph.
        """
        fmt, largest = formats.get(self.fmt), largest_magnitude(x)
        unit = x / largest  # as squares of tiny and of huge numbers are no floats
        to_grid = nearest(fmt)
        cosines = []
        for part in self.parts:
            rounded = to_grid(unit * (fmt.max / part))
            cosines.append((unit * rounded).sum() / rounded.square().sum().sqrt())  # |x| is the same for all
        return largest * x.new_tensor(self.parts).take(torch.stack(cosines).argmax())

    def __call__(self, x: Tensor) -> Tensor:
        """Numbers of the format times a scale, in the shape and dtype of `x`; infinities make all numbers NaN."""
        return Aligned(self.fmt)(x, self.clip(x)) if x.numel() else x
