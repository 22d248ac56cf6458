"""Learned rounding: AdaRound (arXiv:2004.10568), a layer at a time, with the second moment instead of the inputs.

Every weight goes to one of its two neighbours on the grid. `h(V)`, between 0 and 1, is how far it is on the way from
the lower to the upper one. All `V` of a row are learned together so that its output error, `(w - w~) H (w - w~)^T`, is
small, while a penalty drives `h` to 0 or 1. The gradient of the error is a product with `H`, the only one there is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from ptq.formats import Format
from ptq.rounding import neighbours
from ptq.solve.curvature import Curvature
from ptq.solve.feedback import nearest_rows, round_rows
from ptq.solve.solution import Rounded

_ZETA, _GAMMA = 1.1, -0.1
"""How far beyond 1 and 0 the sigmoid is stretched in the paper, so that both are reached."""

ITERATIONS: Final = 500
_RATE = 0.1
PENALTY = 3.0
"""On ten layers of EfficientNet-Lite0 four times the iterations gain 0.01 dB. The penalty is in the unit of the errors,
which is that of each row (`Problem`)."""

_WARM_UP = 0.2
"""The part of all iterations before the penalty begins."""

_BETA = 20.0, 2.0
"""Of the penalty, at first and at last: flat except near 0 and 1, then felt everywhere."""

_DECAY = 0.9, 0.999
"""Of Adam's means of the gradient and of its square."""

_SMALL = 1e-8
_MOST_ELEMENTS = 1 << 17
"""Rows are learned in parts of so many weights, which stay in a processor's cache."""


def rectified(v: Tensor) -> Tensor:
    """The rectified sigmoid `h(V)`."""
    return (v.sigmoid() * (_ZETA - _GAMMA) + _GAMMA).clamp(0, 1)


def inverse(h: Tensor) -> Tensor:
    """A `V` that `rectified` takes to `h`, in 0 to 1."""
    return -((_ZETA - _GAMMA) / (h - _GAMMA) - 1).log()


def penalty(h: Tensor, beta: float) -> Tensor:
    """What each weight pays for being between its neighbours: `1 - |2h - 1|^beta`."""
    return 1 - (2 * h - 1).abs() ** beta


def learn_rows(rows: Tensor, scale: Tensor, fmt: Format, curvature: Curvature, zero: Tensor | None = None) -> Rounded:
    """Numbers of the format, less zero points, for rows `(g, rows, in)` in rounding order.

    `h` starts at where each weight is between its neighbours, as in the paper: a start from the numbers of error
    feedback ended the same or a little worse. No row is worse than rounded to nearest,
    nor than with error feedback: the best of the three is kept.
    """
    near = Rounded.of(nearest_rows(rows, scale, fmt, zero), rows, scale, curvature)
    learned = Rounded.of(_in_parts(rows, scale, fmt, curvature, zero), rows, scale, curvature)
    return near.better(round_rows(rows, scale, fmt, curvature, zero)).better(learned)


def _in_parts(rows: Tensor, scale: Tensor, fmt: Format, curvature: Curvature, zero: Tensor | None) -> Tensor:
    """Rows of a group do not know of each other, so that parts of them are as good as all together."""
    several = max(1, _MOST_ELEMENTS // (rows.shape[0] * rows.shape[2]))
    shift = torch.zeros_like(scale) if zero is None else zero
    parts = zip(*(torch.split(each, several, 1) for each in (rows, scale, shift)), strict=True)
    return torch.cat([_learned(row, step, off, fmt, curvature) for row, step, off in parts], 1)


def _learned(rows: Tensor, scale: Tensor, zero: Tensor, fmt: Format, curvature: Curvature) -> Tensor:
    """Of two neighbours the one that `h` ends at, less zero points."""
    problem = Problem.of(rows, scale, zero, fmt, curvature)
    v = problem.start.clone()
    adam = _Adam(v)
    for t in range(ITERATIONS):
        adam.step(problem.slope(v, _beta(t)))
    return torch.where(v >= 0, problem.high, problem.low)


@dataclass(frozen=True)
class Problem:
    """What is to be small: for each row, error and penalty. All are `(g, rows, in)` but the last two.

    `low` and `high` are the neighbours on the grid, less zero points; `off` and `gap` how far the lower is from the
    weight and from the upper, in units of the largest scale of the row. With `unit` an error counts in that of weights
    that are a gap off each by itself, on the average, so that the penalty is the same for every layer.
    """

    low: Tensor
    high: Tensor
    start: Tensor
    off: Tensor
    gap: Tensor
    unit: Tensor
    moment: Tensor

    @classmethod
    def of(cls, rows: Tensor, scale: Tensor, zero: Tensor, fmt: Format, curvature: Curvature) -> Problem:
        """That of rows in rounding order, with all `V` at the start."""
        exact = rows / scale
        low, high = (each - zero for each in neighbours(fmt, exact + zero))
        relative = scale / scale.amax(-1, keepdim=True)
        gap = (high - low) * relative
        unit = (curvature.diagonal[:, None] * gap.square()).mean(-1, keepdim=True)
        start = inverse(((exact - low) / (high - low)).clamp(0, 1))
        unit = unit.clamp_min(torch.finfo(torch.float32).tiny)
        return cls(low, high, start, (low - exact) * relative, gap, unit, curvature.moment)

    def slope(self, v: Tensor, beta: float | None) -> Tensor:
        """The gradient at `v`, but for the factor `zeta - gamma` that all of it has; without a `beta`, of the error."""
        sigmoid = v.sigmoid()
        stretched = sigmoid * (_ZETA - _GAMMA) + _GAMMA
        inner = sigmoid.mul_(1 - sigmoid).mul_((stretched > 0) & (stretched < 1))
        h = stretched.clamp_(0, 1)
        slope = torch.addcmul(self.off, h, self.gap) @ self.moment
        slope.mul_(self.gap).mul_(2 / self.unit)
        if beta is not None:
            between = h.mul_(2).sub_(1)
            slope.sub_(between.abs().pow_(beta - 1).copysign_(between), alpha=2 * beta * PENALTY)
        return slope.mul_(inner)


def _beta(t: int) -> float | None:
    """That of the penalty in iteration `t`, from 0; None while there is none."""
    part = (t / ITERATIONS - _WARM_UP) / (1 - _WARM_UP)
    return None if part < 0 else _BETA[0] + part * (_BETA[1] - _BETA[0])


class _Adam:
    """Adam (arXiv:1412.6980, algorithm 1) on one tensor, in place."""

    def __init__(self, parameters: Tensor) -> None:
        self._parameters = parameters
        self._mean, self._square = torch.zeros_like(parameters), torch.zeros_like(parameters)
        self._count = 0

    def step(self, gradient: Tensor) -> None:
        """Move against a gradient."""
        self._count += 1
        first, second = _DECAY
        self._mean.lerp_(gradient, 1 - first)
        self._square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        size = (self._square / (1 - second**self._count)).sqrt_().add_(_SMALL)
        self._parameters.addcdiv_(self._mean, size, value=-_RATE / (1 - first**self._count))
