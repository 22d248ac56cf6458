"""Rounding with error feedback: GPTQ on a grid per row or group (arXiv:2210.17323, section 3).

Every row `w` of a weight matrix is rounded to numbers `q` of a format so that the output error
`(w - scale q) H (w - scale q)^T` is small, `H` being the second moment of the inputs. Columns go one at a time, or as
many together as a code of the format stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from ptq.formats import Format
from ptq.rounding import nearest, nearest_vectors
from ptq.solve.curvature import Curvature
from ptq.vectors import VectorFormat

_BLOCK = 64

ToGrid = Callable[[Tensor, slice, Tensor], Tensor]
"""Numbers of a format, less the zero points, for some columns `x / scale` `(g, rows, k)`; they are those of least
`|(x - q) R|` for the metric's root `R (g, k, k)`."""


def to_grid(fmt: Format, zero: Tensor | None) -> ToGrid:
    """Rounding of columns; of single ones there is no metric but one."""
    if isinstance(fmt, VectorFormat):
        vectors = nearest_vectors(fmt)
        return lambda x, _, root: vectors(x, root)
    rounded = nearest(fmt)
    if zero is None:
        return lambda x, *_: rounded(x)
    return lambda x, at, _: rounded(x + columns(zero, at)) - columns(zero, at)


def columns(wide: Tensor, at: slice) -> Tensor:
    """Some columns of `(g, rows, in)` or of `(g, rows, 1)`, which are all alike."""
    return wide[:, :, at] if wide.shape[-1] > 1 else wide


def spans(start: int, stop: int, span: int) -> Iterator[slice]:
    """The columns from one to another that are rounded together."""
    return (slice(i, min(i + span, stop)) for i in range(start, stop, span))


def nearest_rows(weight: Tensor, scale: Tensor, fmt: Format, zero: Tensor | None = None) -> Tensor:
    """Numbers of the format, less zero points, for rows `(…, in)` by rounding to nearest."""
    rounded = nearest(fmt)
    return rounded(weight / scale) if zero is None else rounded(weight / scale + zero) - zero


def round_rows(weight: Tensor, scale: Tensor, fmt: Format, curvature: Curvature, zero: Tensor | None = None) -> Tensor:
    """The same with error feedback, for rows in rounding order; scale and zero `(g, rows, in)` or `(g, rows, 1)`."""
    put = to_grid(fmt, zero)
    work = weight.clone()
    rounded = torch.empty_like(weight)
    for start in range(0, weight.shape[-1], _BLOCK):
        stop = min(start + _BLOCK, weight.shape[-1])
        feedback = torch.empty_like(work[:, :, start:stop])
        for at in spans(start, stop, fmt.span):
            step, root = columns(scale, at), _inverse(curvature.factor[:, at, at])
            rounded[:, :, at] = put(work[:, :, at] / step, at, root)
            error = (work[:, :, at] - rounded[:, :, at] * step) @ root
            feedback[:, :, at.start - start : at.stop - start] = error
            if at.stop < stop:
                work[:, :, at.stop : stop] -= error @ curvature.factor[:, at, at.stop : stop]
        if stop < weight.shape[-1]:
            work[:, :, stop:] -= feedback @ curvature.factor[:, start:stop, stop:]
    return rounded


def _inverse(factor: Tensor) -> Tensor:
    """Of upper triangles `(g, k, k)`."""
    if factor.shape[-1] == 1:
        return 1 / factor
    inverse: Tensor = torch.linalg.solve_triangular(factor, torch.eye(factor.shape[-1]).expand_as(factor), upper=True)
    return inverse
