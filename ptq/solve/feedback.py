"""Rounding with error feedback: GPTQ on a grid per row or group (arXiv:2210.17323, section 3).

Every row `w` of a weight matrix is rounded to numbers `q` of a format so that the output error
`(w - scale q) H (w - scale q)^T` is small, `H` being the second moment of the inputs.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ptq.formats import Format
from ptq.rounding import nearest
from ptq.solve.curvature import Curvature

_BLOCK = 64


def centred(fmt: Format, zero: Tensor | None) -> Callable[[Tensor, int | None], Tensor]:
    """Rounding of `x / scale` to numbers of a format less the zero points, of all columns or of column `i`."""
    to_grid = nearest(fmt)
    if zero is None:
        return lambda x, i: to_grid(x)  # noqa: ARG005
    return lambda x, i: to_grid(x + column(zero, i)) - column(zero, i)


def column(wide: Tensor, i: int | None) -> Tensor:
    """Column `i` of `(g, rows, in)` or of `(g, rows, 1)`; all of it without `i`."""
    if i is None:
        return wide
    return wide[:, :, i if wide.shape[-1] > 1 else 0]


def nearest_rows(weight: Tensor, scale: Tensor, fmt: Format, zero: Tensor | None = None) -> Tensor:
    """Numbers of the format, less zero points, for rows `(g, rows, in)` by rounding to nearest."""
    return centred(fmt, zero)(weight / scale, None)


def round_rows(weight: Tensor, scale: Tensor, fmt: Format, curvature: Curvature, zero: Tensor | None = None) -> Tensor:
    """The same with error feedback, for rows in rounding order; scale and zero `(g, rows, in)` or `(g, rows, 1)`."""
    to_grid = centred(fmt, zero)
    work = weight.clone()
    rounded = torch.empty_like(weight)
    columns = weight.shape[-1]
    for start in range(0, columns, _BLOCK):
        stop = min(start + _BLOCK, columns)
        block = work[:, :, start:stop]
        factor = curvature.factor[:, start:stop, start:stop]
        feedback = torch.empty_like(block)
        for i in range(stop - start):
            step = column(scale, start + i)
            q = to_grid(block[:, :, i] / step, start + i)
            rounded[:, :, start + i] = q
            error = (block[:, :, i] - q * step) / factor[:, i, i, None]
            feedback[:, :, i] = error
            if i + 1 < stop - start:
                block[:, :, i + 1 :] -= error[:, :, None] * factor[:, None, i, i + 1 :]
        if stop < columns:
            work[:, :, stop:] -= feedback @ curvature.factor[:, start:stop, stop:]
    return rounded
