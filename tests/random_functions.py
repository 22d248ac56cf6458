"""The functions of single numbers in drawn graphs."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from random_drafts import Draft, need, operator

_ENDS = ((-1, 1), (0, None), (None, 3), (-0.01, 4), (-5, 0.02), (0, 0.3), (0.5, 2), (-3, -1), (None, None))


@operator(times=8)
def function(draft: Draft, x: str) -> str:
    name = draft.one_of(_NAMES)
    if name in _WRITTEN:
        return _WRITTEN[name](draft, x)
    need(draft.opset >= _OPSETS.get(name, 1))
    return draft.call(name, x, shape=draft.shape(x))


def _relu6(draft: Draft, x: str) -> str:
    return draft.call("Clip", x, _number(draft, 0), _number(draft, 6), shape=draft.shape(x))


def _clip(draft: Draft, x: str) -> str:
    ends = ["" if end is None else _number(draft, end) for end in draft.one_of(_ENDS)]
    return draft.call("Clip", x, *ends, shape=draft.shape(x))


def _leaky_relu(draft: Draft, x: str) -> str:
    return draft.call("LeakyRelu", x, shape=draft.shape(x), alpha=draft.one_of((0.1, 0.01, 1.5)))


def _hard_sigmoid(draft: Draft, x: str) -> str:
    return draft.call("HardSigmoid", x, shape=draft.shape(x), alpha=draft.one_of((1 / 6, 0.2)), beta=0.5)


def _prelu(draft: Draft, x: str) -> str:
    shape = draft.shape(x)
    sizes = [(), (1,), (shape[1], *[1] * (len(shape) - 2))]
    return draft.call("PRelu", x, draft.vector(*draft.one_of(sizes), low=0.01, high=0.5), shape=shape)


def _silu(draft: Draft, x: str) -> str:
    shape = draft.shape(x)
    return draft.call("Mul", x, draft.call("Sigmoid", x, shape=shape), shape=shape)


def _gelu(draft: Draft, x: str) -> str:
    """By Erf, as exporters write it."""
    shape = draft.shape(x)
    scaled = draft.call("Div", x, _number(draft, math.sqrt(2)), shape=shape)
    grown = draft.call("Add", draft.call("Erf", scaled, shape=shape), _number(draft, 1), shape=shape)
    return draft.call("Mul", draft.call("Mul", x, grown, shape=shape), _number(draft, 0.5), shape=shape)


def _number(draft: Draft, value: float) -> str:
    return draft.store(np.array(value, np.float32))


_WRITTEN: dict[str, Callable[[Draft, str], str]] = {
    "Relu6": _relu6,
    "Clip": _clip,
    "LeakyRelu": _leaky_relu,
    "HardSigmoid": _hard_sigmoid,
    "PRelu": _prelu,
    "Silu": _silu,
    "Gelu by Erf": _gelu,
}
_OPSETS = {"Gelu": 20, "HardSwish": 14}
_NAMES = ("Relu", *_WRITTEN, "Sigmoid", "Tanh", "HardSwish", "Gelu", "Elu", "Softplus")
