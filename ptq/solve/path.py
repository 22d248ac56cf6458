"""Greedy path following: GPFQ (arXiv:2010.15979), with the second moment instead of the inputs.

The paper goes along a row `w` with what the output is off so far, `u`, and chooses for column `t` of the inputs `X` the
number that takes most of it back: `u + w_t X_t` projected on `X_t`, rounded. With `G = X^T X` the projection is

    w_t + sum over s < t of (w_s - q_s) G[s, t] / G[t, t],

so that no sample is looked at. Inputs are those of the float network.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ptq.formats import Format
from ptq.solve.curvature import Curvature
from ptq.solve.feedback import columns, columns_first, each_column, to_grid
from ptq.solve.solution import Rounded


def follow_rows(rows: Tensor, scale: Tensor, fmt: Format, curvature: Curvature, zero: Tensor | None = None) -> Rounded:
    """Numbers of the format, less zero points, for rows `(g, rows, in)` in rounding order.

    Columns are followed in that order, where the paper has their own: errors are 0.1 dB less in dense layers of
    EfficientNet-Lite0, 0.1 dB more in depthwise ones, and equal after coordinate descent.

    An input without any power, `G[t, t] = 0`, is given a 0, as in the paper. `Curvature.of` knows none, as it gives
    those that were never active a power of their own: they go to the nearest.
    """
    return Rounded.of(path(rows, scale, fmt, curvature, zero)[0], rows, scale, curvature)


def path(
    rows: Tensor, scale: Tensor, fmt: Format, curvature: Curvature, zero: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """What `follow_rows` gives, and the arguments of its roundings in units of the weights, both `(g, rows, in)`."""
    steps, put = columns_first(scale), to_grid(fmt, None if zero is None else columns_first(zero))
    moment, power, weight = curvature.moment, curvature.diagonal, columns_first(rows)
    active = power > 0
    power = torch.where(active, power, torch.ones_like(power))
    values, arguments = torch.empty_like(weight), torch.empty_like(weight)

    def error(at: slice, behind: Tensor) -> Tensor:
        step, own = columns(steps, at), power[:, at, None]
        arguments[:, at] = weight[:, at] + behind / own
        values[:, at] = put(arguments[:, at] / step * active[:, at, None], at, own)
        return values[:, at] * step - weight[:, at]

    each_column(torch.zeros_like(weight), moment, 1, error, ahead=True)  # (w - q) G of the columns before
    return values.mT.contiguous(), arguments.mT.contiguous()
