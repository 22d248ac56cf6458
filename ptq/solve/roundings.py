"""How rows are put on a grid of which the scales are known: the roundings that methods choose from, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from torch import Tensor

from ptq.formats import Format
from ptq.solve.curvature import Curvature
from ptq.solve.feedback import nearest_rows, round_rows
from ptq.solve.learned import learn_rows
from ptq.solve.path import follow_rows
from ptq.solve.solution import Rounded

PutsRows = Callable[[Tensor, Tensor, Format, Curvature, Tensor | None], Rounded]
"""Gives numbers of the format for rows `(g, rows, in)` in the order of the curvature.

Scales and zero points, which come before and after format and curvature, are `(g, rows, in)` or `(g, rows, 1)`.
"""


@dataclass(frozen=True)
class RowRounding:
    """One way to round rows; `needs` are the statistics without which it is none."""

    rows: PutsRows
    needs: frozenset[str] = frozenset({"moment"})
    settles: bool = False
    """Whether coordinate descent follows, on the numbers and the scales (`ptq.solve.settle`).

    It takes 0.2 dB off the errors of gpfq, 0.14 off those of hessian and 0.03 off those of adaround.
    """
    scales: tuple[RowRounding, ...] = ()
    """What the scales are found by, where it is too slow to be done for each that is tried; the best of each row."""
    singly: bool = False
    """Whether it is a rule for single numbers, so that there is none for formats of vectors."""

    def is_by_number(self, curvature: Curvature) -> bool:
        """Whether each number is rounded, and its error is counted, without regard to others."""
        return not self.needs and curvature.known is None

    @property
    def statistics(self) -> frozenset[str]:
        """What it needs, or the mean input: that keeps the mean of an output where it is."""
        return self.needs or frozenset({"mean"})


def _nearest(rows: Tensor, scale: Tensor, fmt: Format, curvature: Curvature, zero: Tensor | None) -> Rounded:
    return Rounded.of(nearest_rows(rows, scale, fmt, zero), rows, scale, curvature)


NEAREST: Final = RowRounding(_nearest, needs=frozenset())
HESSIAN: Final = RowRounding(round_rows, settles=True)

ROUNDINGS: Final[Mapping[str, RowRounding]] = MappingProxyType(
    {
        "nearest": NEAREST,
        "hessian": HESSIAN,
        "gpfq": RowRounding(follow_rows, settles=True, singly=True),
        "adaround": RowRounding(learn_rows, settles=True, scales=(NEAREST, HESSIAN), singly=True),
    }
)
"""All of them."""
