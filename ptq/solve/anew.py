"""Round a weight anew where its scales are known: for those who want to know what other data would make of it."""

from __future__ import annotations

from torch import Tensor

from ptq.solve.curvature import Curvature
from ptq.solve.feedback import round_rows
from ptq.solve.grouping import Grouping
from ptq.term import Term


def rounded_anew(weight: Tensor, term: Term, curvature: Curvature) -> Tensor:
    """A weight `(groups, rows, in)` on the scales and zero points of a term of all of it, by error feedback; float32.

    Scales have few degrees of freedom beside the numbers of a row, and hardly know the data that they were found with.
    """
    shape, columns = weight.shape, weight.shape[-1]
    grouping = Grouping.of(columns, None if term.blocks is None else term.blocks.size)
    scale = term.scale[:, None] if term.blocks is None else term.scale[:, None] * term.blocks.factors
    wide = grouping.wide(scale.float().reshape(*shape[:2], -1), curvature.order)
    zero = None
    if term.zero_point is not None:
        zero = grouping.wide(term.zero_point.float().reshape(*shape[:2], -1), curvature.order)
    values = round_rows(curvature.arranged(weight), wide, term.format, curvature, zero).values
    return curvature.restored(values * wide)
