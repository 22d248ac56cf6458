"""The grids that a lowered model rounds its activations to, read back from it."""

from __future__ import annotations

from typing import Final, NamedTuple

import numpy as np

from ptq import formats
from ptq.formats import Format
from ptq.lowering.native import Native
from ptq.lowering.simulated import Simulated
from ptq.model.graph import Model
from ptq.model.sites import constant

_INTEGER, _ZERO = "/activation/scale", "/activation/zero_point"
_OTHERS: Final = tuple(f"/{kind.KIND}/scale" for kind in (Simulated, Native))


class ActivationGrid(NamedTuple):
    """The numbers of a grid, ascending: `step` times those of a format less the zero point."""

    step: float
    zero_point: int
    numbers: tuple[float, ...]


def activation_grids(lowered: Model, activations: str) -> dict[str, ActivationGrid]:
    """The grid of every tensor that has one of its own, by the name it had; `activations` is the format simulated."""
    found = {}
    for name in lowered.graph.graph.initializers:
        tensor = next((name.removesuffix(end) for end in (_INTEGER, *_OTHERS) if name.endswith(end)), None)
        if tensor is None or (name.endswith(_INTEGER) and f"{tensor}{_ZERO}" not in lowered.graph.graph.initializers):
            continue  # what a user named like this is none
        step = _number(lowered, name)
        if name.endswith(_INTEGER):
            zero = int(_number(lowered, f"{tensor}{_ZERO}"))
            last = _number(lowered, f"{tensor}/activation/dequantize.trained/high", 255)
            found[tensor] = ActivationGrid(step, zero, tuple(step * (code - zero) for code in range(int(last) + 1)))
        else:
            found[tensor] = ActivationGrid(step, 0, _scaled(formats.get(activations), step))
    return found


def _scaled(fmt: Format, step: float) -> tuple[float, ...]:
    return tuple(float(each) for each in np.asarray(fmt.values) * step)


def _number(lowered: Model, name: str, otherwise: float | None = None) -> float:
    value = lowered.graph.graph.initializers.get(name)
    array = None if value is None else constant(value)
    if array is None:
        if otherwise is None:
            raise AssertionError(name)
        return otherwise
    return float(array.reshape(-1)[0])
