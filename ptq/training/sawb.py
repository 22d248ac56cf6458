"""SAWB: where to clip a tensor, from two of its moments (statistics-aware weight binning, arXiv:1807.06964).

`clip = c1 sqrt(E[x^2]) - c2 E|x|`, a regression over the clips of least squared error of six distributions. LUQ takes
it for the forward pass (arXiv:2112.10769).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, NamedTuple

import torch
from torch import Tensor

from ptq import formats, registry
from ptq.formats import Format
from ptq.training.grids import Grid, positive


class Coefficients(NamedTuple):
    """`c1` of the root mean square, `c2` of the mean magnitude."""

    c1: float
    c2: float


COEFFICIENTS: Final[Mapping[str, Coefficients]] = MappingProxyType(
    {
        "luq": Coefficients(12.1, 12.2),
        "ibm2": Coefficients(3.12, 2.064),
        "ibm3": Coefficients(7.509, 6.892),
        "ibm4": Coefficients(12.68, 12.80),
        "ibm5": Coefficients(17.74, 18.64),
        "ibm8": Coefficients(31.76, 35.04),
        "ibm103": Coefficients(2.6, 1.71),
        "ibm403": Coefficients(12.035, 12.03),
        "ibm703": Coefficients(28.24, 30.81),
    }
)
"""By source: LUQ's published code (4 bits), and IBM's fms-model-optimizer by bits.

Those that end in 03 are for grids with as many numbers on either side of 0: 3, 15 and 127 levels.
"""


def clip(x: Tensor, source: str) -> Tensor:
    """Where to clip a tensor of any shape; without dimensions, in the dtype of `x`.

    The regression comes to nothing where magnitudes are nearly equal, as in masks: below their mean, where no clip
    makes sense, it is the largest magnitude instead (IBM's code does so below 0). So it is 0 for zeros only.

    Raises:
        OptionError: there is no such source.

    """
    c1, c2 = registry.get("source of SAWB coefficients", source, COEFFICIENTS)
    if not x.numel():
        return x.new_zeros(())
    magnitude = x.abs()
    mean = magnitude.mean()
    fitted = c1 * x.square().mean().sqrt() - c2 * mean
    return torch.where(fitted > mean, fitted, magnitude.max())


@dataclass(frozen=True)
class Sawb(Grid):
    """Multiples of `clip / fmt.max`, as LUQ rounds weights and activations to."""

    fmt: str = "int4"
    source: str = "ibm403"

    @property
    def integers(self) -> Format:
        """Those of the format."""
        return formats.get(self.fmt)

    def step(self, x: Tensor) -> Tensor:
        """The clip falls on the largest number of the format."""
        return positive(clip(x, self.source) / self.integers.max)
