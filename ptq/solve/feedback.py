"""Rounding with error feedback: GPTQ on a grid per row or group (arXiv:2210.17323, section 3).

Every row `w` of a weight matrix is rounded to numbers `q` of a format so that the output error
`(w - scale q) H (w - scale q)^T` is small, `H` being the second moment of the inputs. Columns go one at a time, or as
many together as a code of the format stands for.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ptq.formats import Format
from ptq.rounding import nearest, nearest_vectors
from ptq.solve.curvature import Curvature
from ptq.solve.solution import Rounded
from ptq.vectors import VectorFormat

_BLOCK = 64

ToGrid = Callable[[Tensor, slice, Tensor], Tensor]
"""Numbers of a format, less the zero points, for some columns `x / scale` `(g, k, rows)`; they are those of least
`|(x - q) R|` for the metric's root `R (g, k, k)`."""


def to_grid(fmt: Format, zero: Tensor | None) -> ToGrid:
    """Rounding of columns; of single ones there is no metric but one; zero points are by column."""
    if isinstance(fmt, VectorFormat):
        vectors = nearest_vectors(fmt)
        return lambda x, _, root: vectors(x.mT, root).mT
    rounded = nearest(fmt)
    if zero is None:
        return lambda x, *_: rounded(x)
    return lambda x, at, _: rounded(x + columns(zero, at)) - columns(zero, at)


def columns(wide: Tensor, at: slice) -> Tensor:
    """Some columns of `(g, in, rows)` or of `(g, 1, rows)`, which are all alike."""
    return wide[:, at] if wide.shape[1] > 1 else wide


def columns_first(rows: Tensor) -> Tensor:
    """A copy of `(g, rows, in)` as `(g, in, rows)`, where a column is in one piece: two to four times as fast."""
    return rows.mT.clone(memory_format=torch.contiguous_format)


def each_column(
    total: Tensor, matrix: Tensor, span: int, taken: Callable[[slice, Tensor], Tensor], *, ahead: bool
) -> None:
    """Change columns `(g, in, rows)` in place by what was taken at those before, or, not only `ahead`, at all.

    `taken(at, total[:, at])` of `span` columns is taken from the others times `matrix (g, in, in)`. The products with
    columns that are not next are made for many at a time.
    """
    size = total.shape[1]
    for start in range(0, size, _BLOCK):
        stop = min(start + _BLOCK, size)
        here = total[:, start:stop].clone()
        off = torch.empty_like(here)
        for first in range(start, stop, span):
            at = slice(first, min(first + span, stop))
            inside, behind = slice(at.start - start, at.stop - start), slice(at.stop - start, None)
            off[:, inside] = taken(at, here[:, inside])
            here[:, behind].baddbmm_(matrix[:, at, at.stop : stop].mT, off[:, inside], alpha=-1)
        others = slice(stop if ahead else 0, None)
        total[:, others].baddbmm_(matrix[:, start:stop, others].mT, off, alpha=-1)


def nearest_rows(
    weight: Tensor, scale: Tensor, fmt: Format, zero: Tensor | None = None, *, out: Tensor | None = None
) -> Tensor:
    """Numbers of the format, less zero points, for rows `(…, in)` by rounding to nearest.

    `out` is a tensor for them, in which they are laid out as they are there.
    """
    rounded, exact = nearest(fmt, inplace=True), torch.div(weight, scale, out=out)
    numbers = rounded(exact) if zero is None else rounded(exact.add_(zero)).sub_(zero)
    return numbers if out is None or numbers is out else out.copy_(numbers)


def round_rows(weight: Tensor, scale: Tensor, fmt: Format, curvature: Curvature, zero: Tensor | None = None) -> Rounded:
    """The same with error feedback, for rows in rounding order; scale and zero `(g, rows, in)` or `(g, rows, 1)`.

    What is carried on are residuals times the inverse of the factor: their squares are what the output is off by.
    """
    steps, put = columns_first(scale), to_grid(fmt, None if zero is None else columns_first(zero))
    work = columns_first(weight)
    rounded, total = torch.empty_like(work), work.new_zeros((len(work), work.shape[-1]))

    def error(at: slice, wanted: Tensor) -> Tensor:
        step, root = columns(steps, at), _inverse(curvature.factor[:, at, at])
        rounded[:, at] = put(wanted / step, at, root)
        carried = root.mT @ (wanted - rounded[:, at] * step)
        for column in carried.unbind(1):
            total.addcmul_(column, column)
        return carried

    each_column(work, curvature.factor, fmt.span, error, ahead=True)
    return Rounded(rounded.mT.contiguous(), total)


def _inverse(factor: Tensor) -> Tensor:
    """Of upper triangles `(g, k, k)`."""
    if factor.shape[-1] == 1:
        return 1 / factor
    inverse: Tensor = torch.linalg.solve_triangular(factor, torch.eye(factor.shape[-1]).expand_as(factor), upper=True)
    return inverse
