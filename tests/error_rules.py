"""What operators do to errors: the rules of `error_bounds`, each from a node to the errors of its outputs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import NodeProto, helper

if TYPE_CHECKING:
    from error_bounds import Bounds

NOISE = 2e-6
"""Of sums in float32, relative to their terms."""

_LIPSCHITZ = {"HardSwish": 1.5, "Gelu": 1.13, "Erf": 1.13, "Neg": 1.0, "Abs": 1.0}
_RISING = ("Clip", "Elu", "HardSigmoid", "LeakyRelu", "PRelu", "Relu", "Sigmoid", "Softplus", "Tanh")
_ALIKE = (
    *("AveragePool", "DepthToSpace", "Dropout", "Expand", "Flatten", "Gather", "GlobalAveragePool", "GlobalMaxPool"),
    *("Identity", "MaxPool", "ReduceMax", "ReduceMean", "Reshape", "Resize", "Slice", "SpaceToDepth", "Split"),
    *("Squeeze", "Transpose", "Unsqueeze"),
)
"""Operators that do to errors what they do to numbers, of their first input."""

Rule = Callable[["Bounds", NodeProto], list[str]]


def _said(node: NodeProto) -> dict[str, Any]:
    """The attributes."""
    return {each.name: helper.get_attribute_value(each) for each in node.attribute}


def _bilinear(bounds: Bounds, node: NodeProto) -> list[str]:
    """Of products of two tensors, either of which may be off; what is added may be too."""
    said = _said(node)
    said |= {"alpha": abs(said["alpha"])} if "alpha" in said else {}
    (a, b), more = node.input[:2], node.input[2:]
    sizes = [bounds.call("Abs", each) for each in (a, b)]
    off = [bounds.errors.get(each) for each in (a, b)]
    left, right = (bounds.sum(e, bounds.call("Mul", x, bounds.number(NOISE))) for e, x in zip(off, sizes, strict=True))
    pairs = [(left, sizes[1]), (sizes[0], right), (left, right)]
    parts = [bounds.call(node.op_type, *pair, **said) for pair in pairs]
    return [bounds.sum(*parts, *(bounds.errors.get(each) for each in more))]


def _added(bounds: Bounds, node: NodeProto) -> list[str]:
    """Zeros make the errors as large as the sum."""
    return [bounds.sum(bounds.call("Sub", node.output[0], node.output[0]), *map(bounds.errors.get, node.input))]


def _exact(bounds: Bounds, node: NodeProto) -> list[str]:
    return []


def _divided(bounds: Bounds, node: NodeProto) -> list[str]:
    """By a constant."""
    x, constant = node.input
    return [bounds.call("Div", bounds.errors[x], bounds.call("Abs", constant))]


def _concat(bounds: Bounds, node: NodeProto) -> list[str]:
    (axis,) = (each.i for each in node.attribute)
    return [bounds.call("Concat", *map(bounds.error, node.input), axis=axis)]


def _pad(bounds: Bounds, node: NodeProto) -> list[str]:
    return [bounds.call("Pad", bounds.errors[node.input[0]], node.input[1])]


def _batch_norm(bounds: Bounds, node: NodeProto) -> list[str]:
    x, scale, _, mean, variance = node.input
    said = _said(node)
    zero = bounds.call("Sub", mean, mean)
    inputs = (bounds.errors[x], bounds.call("Abs", scale), zero, zero, variance)
    return [bounds.call("BatchNormalization", *inputs, **said)]


def _softmax(bounds: Bounds, node: NodeProto) -> list[str]:
    """No number changes by more than the factor `exp(2 m)`, nor by more than `m / 2` or 1; `m` is the largest error."""
    (axis,) = (each.i for each in node.attribute)
    e = bounds.errors[node.input[0]]
    most = bounds.call("ReduceMax", e, bounds.number(np.array([axis])), keepdims=1)
    twice = bounds.call("Min", bounds.call("Mul", most, bounds.number(2.0)), bounds.number(20.0))
    factor = bounds.call("Sub", bounds.call("Exp", twice), bounds.number(1.0))
    grown = bounds.call("Mul", node.output[0], factor)
    return [bounds.call("Min", grown, bounds.call("Mul", most, bounds.number(0.5)), bounds.number(1.0))]


def _layer_norm(bounds: Bounds, node: NodeProto) -> list[str]:
    """By the derivative `(d - mean d - n mean(n d)) / s` of `n = (x - mean x) / s`, along the way from `x` to `x'`.

    The root mean square `r` of the error bounds how far `s` moves, and with `|n| <= (|x - mean x| + e + mean e) / s`,
    whose root mean square is at most 1, all of it.
    """
    said = _said(node)
    x, e, last = node.input[0], bounds.errors[node.input[0]], bounds.number(np.array([-1]))

    def mean(value: str) -> str:
        return bounds.call("ReduceMean", value, last, keepdims=1)

    def root(value: str) -> str:
        return bounds.call("Sqrt", mean(bounds.call("Mul", value, value)))

    least = bounds.number(float(np.sqrt(said.get("epsilon", 1e-5))))
    centred = bounds.call("Sub", x, mean(x))
    around = bounds.sum(e, mean(e))
    r = root(e)
    s = bounds.call("Max", bounds.call("Sub", root(centred), r), least)
    n = bounds.call("Div", bounds.sum(bounds.call("Abs", centred), around), s)
    moved = bounds.call("Div", bounds.sum(around, bounds.call("Mul", n, r)), s)
    return [bounds.call("Mul", moved, bounds.call("Abs", node.input[1]))]


def _alike(bounds: Bounds, node: NodeProto) -> list[str]:
    made = [f"bound/{len(bounds.nodes)}.{k}" for k, _ in enumerate(node.output)]
    twin = NodeProto()
    twin.CopyFrom(node)
    del twin.output[:]
    twin.name = ""
    twin.output.extend(made)
    twin.input[0] = bounds.errors[node.input[0]]
    bounds.nodes.append(twin)
    return made


def _rising(bounds: Bounds, node: NodeProto) -> list[str]:
    """The larger of what the function gains and loses within the error."""
    x, e, y = node.input[0], bounds.errors[node.input[0]], node.output[0]
    said = _said(node)
    up, down = (bounds.call(node.op_type, bounds.call(op, x, e), *node.input[1:], **said) for op in ("Add", "Sub"))
    return [bounds.call("Max", bounds.call("Sub", up, y), bounds.call("Sub", y, down))]


def _lipschitz(bounds: Bounds, node: NodeProto) -> list[str]:
    """The error times how steep a function is; below -3, where a HardSwish is 0, its grid may end."""
    x = node.input[0]
    e, grid = bounds.errors[x], bounds.grids.get(x)
    if node.op_type == "HardSwish" and grid is not None and abs(grid[0] * grid[1] - 3) < 1e-5:
        e = bounds.rounded(bounds.call("Max", x, bounds.number(-3.0)), bounds.raw.get(x), *grid)
    return [bounds.times(e, _LIPSCHITZ[node.op_type])]


def _largest(bounds: Bounds, node: NodeProto) -> list[str]:
    return [bounds.call("Max", *map(bounds.error, node.input))]


def _reciprocal(bounds: Bounds, node: NodeProto) -> list[str]:
    """It is the factor of what comes next, whose rule looks at what is divided by."""
    bounds.divisors[node.output[0]] = node.input[0]
    return []


def _times(bounds: Bounds, node: NodeProto) -> list[str]:
    """Of `x / r` for an `r` off by `d`, which no `x` exceeds: `(e + |x / r| d) / (r - d)`, and 2 at most."""
    divided = [(x, bounds.divisors[f]) for x, f in (node.input, node.input[::-1]) if f in bounds.divisors]
    if not divided:
        return _bilinear(bounds, node)
    ((x, r),) = divided
    d = bounds.error(r)
    left = bounds.call("Sub", r, d)
    moved = bounds.sum(bounds.error(x), bounds.call("Mul", bounds.call("Abs", node.output[0]), d))
    near = bounds.call("Greater", left, bounds.times(r, 1e-3))
    e = bounds.call("Div", moved, bounds.call("Where", near, left, r))
    two = bounds.number(2.0)
    return [bounds.call("Where", near, bounds.call("Min", e, two), two)]


RULES: Mapping[str, Rule] = {
    **dict.fromkeys(_ALIKE, _alike),
    **dict.fromkeys(_RISING, _rising),
    **dict.fromkeys(_LIPSCHITZ, _lipschitz),
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul"), _bilinear),
    **dict.fromkeys(("Add", "Sub", "Sum"), _added),
    "BatchNormalization": _batch_norm,
    "Shape": _exact,
    "Div": _divided,
    "Concat": _concat,
    "LayerNormalization": _layer_norm,
    "Max": _largest,
    "Mul": _times,
    "Pad": _pad,
    "Reciprocal": _reciprocal,
    "Softmax": _softmax,
}
