"""Rounding with error feedback: GPTQ on a grid per row (arXiv:2210.17323, section 3).

Every row `w` of a weight matrix is rounded to numbers `q` of a format so that the output error
`(w - scale q) H (w - scale q)^T` is small, `H` being the second moment of the inputs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ptq.formats import Format
from ptq.rounding import nearest
from ptq.solve.curvature import Curvature

_BLOCK = 64


def nearest_rows(weight: Tensor, scale: Tensor, fmt: Format) -> Tensor:
    """Numbers of the format for rows `(groups, rows, in)` by rounding to nearest."""
    return nearest(fmt)(weight / scale[..., None])


def round_rows(weight: Tensor, scale: Tensor, fmt: Format, curvature: Curvature) -> Tensor:
    """Numbers of the format for rows `(groups, rows, in)` in rounding order, scales `(groups, rows)`."""
    to_grid = nearest(fmt)
    work = weight.clone()
    rounded = torch.empty_like(weight)
    columns = weight.shape[-1]
    for start in range(0, columns, _BLOCK):
        stop = min(start + _BLOCK, columns)
        block = work[:, :, start:stop]
        factor = curvature.factor[:, start:stop, start:stop]
        feedback = torch.empty_like(block)
        for i in range(stop - start):
            column = block[:, :, i]
            q = to_grid(column / scale)
            rounded[:, :, start + i] = q
            error = (column - q * scale) / factor[:, i, i, None]
            feedback[:, :, i] = error
            if i + 1 < stop - start:
                block[:, :, i + 1 :] -= error[:, :, None] * factor[:, None, i, i + 1 :]
        if stop < columns:
            work[:, :, stop:] -= feedback @ curvature.factor[:, start:stop, stop:]
    return rounded
