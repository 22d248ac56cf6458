"""How far the outputs of a quantized file may be from those of its float network, by the scales in the file.

Beside every tensor `x` of the float graph goes an error `e`, such that `|x' - x| <= e` for each number of what the file
makes of it, `x'`. The graph computes it with the tensor:

    rounded to a grid     e + max(s / 2, how far x is from the grid)
    rounded when run      e + (the reach of x +- e, and 0) / 510
    w x + b               |w'| e + |(w' - w) x| + |b' - b|
    f, never falling      max(f(x + e) - f(x), f(x) - f(x - e))
    x y                   |x| e_y + |y| e_x + e_x e_y

and what hands numbers on, adds or averages them does the same to errors. Weights `w'` and biases `b'` are those of the
file. Where a kernel computes in integers its bias is rounded too, to half a step of input times weight.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, helper, numpy_helper

from ptq.model.session import Session

NOISE = 2e-6
"""Of sums in float32, relative to their terms."""

_HALF = 0.5001
_LIPSCHITZ = {"HardSwish": 1.5, "Gelu": 1.13, "Erf": 1.13, "Neg": 1.0, "Abs": 1.0}
_RISING = frozenset({"Clip", "HardSigmoid", "LeakyRelu", "Relu", "Sigmoid", "Tanh"})
_ALIKE = frozenset(
    {
        *("AveragePool", "Dropout", "Expand", "Flatten", "Gather", "GlobalAveragePool", "GlobalMaxPool", "Identity"),
        *("MaxPool", "ReduceMean", "Reshape", "Resize", "Slice", "Split", "Squeeze", "Transpose", "Unsqueeze"),
    }
)
"""Operators that do to errors what they do to numbers, of their first input."""


@dataclass(frozen=True)
class Layer:
    """What the file computes with in place of a float node; `bias` is how far its bias is off, `(out,)`.

    `steps (out,)` are those of the weight where the inputs are integers whose grid is known before.
    """

    weight: np.ndarray
    bias: np.ndarray
    steps: np.ndarray | None
    dynamic: bool


@dataclass
class Bounds:
    """Writes errors beside the nodes of a float graph; those with a grid, scale and zero point, are rounded to it."""

    model: ModelProto
    layers: Mapping[str, Layer]
    grids: Mapping[str, tuple[float, int]]
    fused: bool
    nodes: list[NodeProto] = field(default_factory=list)
    stored: dict[str, np.ndarray] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    raw: dict[str, str] = field(default_factory=dict)

    def session(self) -> Session:
        """Of the float outputs, then of their errors."""
        for value in self.model.graph.input:
            self._round(value.name)
        for node in self.model.graph.node:
            self.nodes.append(node)
            made = self._rule(node)
            for name, error in zip(node.output, made, strict=False):
                if error is not None:
                    self.errors[name] = error
                self._round(name)
        outputs = [value.name for value in self.model.graph.output]
        errors = [self.call("Identity", self.error(name), out=f"{name}/bound") for name in outputs]
        proto = ModelProto()
        proto.CopyFrom(self.model)
        del proto.graph.node[:], proto.graph.value_info[:]
        proto.graph.node.extend(self.nodes)
        proto.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in self.stored.items())
        proto.graph.output.extend(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None) for name in errors)
        return Session(proto.SerializeToString(), optimize=False)

    def call(self, op: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        """The output of a new node."""
        name = out or f"bound/{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def number(self, value: Any) -> str:
        """A constant."""
        name, array = f"bound/c{len(self.stored)}", np.asarray(value)
        self.stored[name] = array if array.dtype == np.int64 else array.astype(np.float32)
        return name

    def error(self, name: str) -> str:
        """Of a tensor, zeros where it is exact."""
        return self.errors.get(name) or self.call("Sub", name, name)

    def sum(self, *parts: str | None) -> str:
        """Of errors, those that are there."""
        return self.call("Sum", *(part for part in parts if part is not None))

    def _round(self, name: str) -> None:
        grid = self.grids.get(name)
        if grid is None:
            return
        if name in self.errors:
            self.raw[name] = self.errors[name]
        self.errors[name] = self._rounded(name, self.errors.get(name), *grid)

    def _rounded(self, name: str, error: str | None, step: float, zero: int) -> str:
        ends = [self.number(step * (code - zero)) for code in (0, 255)]
        away = self.call("Abs", self.call("Sub", name, self.call("Clip", name, *ends)))
        own = self.call("Max", away, self.number(_HALF * step))
        return self.sum(own, error)

    def _rule(self, node: NodeProto) -> list[str | None]:
        floats = [name for name in node.input if name in self.errors]
        layer = self.layers.get(node.name)
        if layer is not None:
            return [self._product(node, layer)]
        if not floats:
            return [None]
        if node.op_type in _ALIKE:
            return self._alike(node)
        if node.op_type in _RISING:
            return [self._rising(node)]
        if node.op_type in _LIPSCHITZ:
            return [self._times(self._swished(node), _LIPSCHITZ[node.op_type])]
        return [_RULES[node.op_type](self, node)]

    def _swished(self, node: NodeProto) -> str:
        """The error of what a function reads; below -3, where a HardSwish is 0, its grid may end."""
        name = node.input[0]
        grid = self.grids.get(name)
        if node.op_type != "HardSwish" or grid is None or abs(grid[0] * grid[1] - 3) > 1e-5:
            return self.errors[name]
        return self._rounded(self.call("Max", name, self.number(-3.0)), self.raw.get(name), *grid)

    def _alike(self, node: NodeProto) -> list[str | None]:
        made = [f"bound/{len(self.nodes)}.{k}" for k, _ in enumerate(node.output)]
        twin = NodeProto()
        twin.CopyFrom(node)
        del twin.output[:]
        twin.name = ""
        twin.output.extend(made)
        twin.input[0] = self.errors[node.input[0]]
        self.nodes.append(twin)
        return list(made)

    def _rising(self, node: NodeProto) -> str:
        """The larger of what the function gains and loses within the error."""
        x, e, y = node.input[0], self.errors[node.input[0]], node.output[0]
        said = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        up, down = (self.call(node.op_type, self.call(op, x, e), *node.input[1:], **said) for op in ("Add", "Sub"))
        return self.call("Max", self.call("Sub", up, y), self.call("Sub", y, down))

    def _times(self, error: str, factor: float) -> str:
        return self.call("Mul", error, self.number(factor))

    def _product(self, node: NodeProto, layer: Layer) -> str:
        """Of a layer: from its input, its weight and its bias."""
        x, w, *bias = node.input
        said = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        incoming = self.errors.get(x)
        if layer.dynamic:
            incoming = self.sum(incoming, self._reach(x, incoming))
        noisy = self.sum(incoming, self._times(self.call("Abs", x), NOISE))
        away = self.call("Abs", self.call(node.op_type, x, self.number(layer.weight - self.constant(w)), **said))
        total = self.call(node.op_type, noisy, self.number(np.abs(layer.weight)), **said)
        own = layer.bias
        if self.fused and layer.steps is not None and node.op_type == "Conv" and bias:
            own = own + _HALF * layer.steps * self.grids[x][0]
        if node.op_type == "Conv":
            own = np.reshape(own, (-1, *[1] * (layer.weight.ndim - 2)))
        return self.sum(total, away, self.number(own))

    def _reach(self, x: str, error: str | None) -> str:
        """Half a step of a grid that is found when the file is run."""
        zero, e = self.number(0.0), error or self.number(0.0)
        high = self.call("Max", self.call("ReduceMax", self.call("Add", x, e), keepdims=0), zero)
        low = self.call("Min", self.call("ReduceMin", self.call("Sub", x, e), keepdims=0), zero)
        return self._times(self.call("Sub", high, low), _HALF / 255)

    def constant(self, name: str) -> np.ndarray:
        return numpy_helper.to_array(next(each for each in self.model.graph.initializer if each.name == name))


Rule = Callable[[Bounds, NodeProto], str]


def _bilinear(bounds: Bounds, node: NodeProto) -> str:
    """Of products of two tensors, either of which may be off; what is added may be too."""
    said = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    said |= {"alpha": abs(said["alpha"])} if "alpha" in said else {}
    (a, b), more = node.input[:2], node.input[2:]
    sizes = [bounds.call("Abs", each) for each in (a, b)]
    off = [bounds.errors.get(each) for each in (a, b)]
    left, right = (bounds.sum(e, bounds.call("Mul", x, bounds.number(NOISE))) for e, x in zip(off, sizes, strict=True))
    pairs = [(left, sizes[1]), (sizes[0], right), (left, right)]
    parts = [bounds.call(node.op_type, *pair, **said) for pair in pairs]
    return bounds.sum(*parts, *(bounds.errors.get(each) for each in more))


def _added(bounds: Bounds, node: NodeProto) -> str:
    """Zeros make the errors as large as the sum."""
    return bounds.sum(bounds.call("Sub", node.output[0], node.output[0]), *map(bounds.errors.get, node.input))


def _concat(bounds: Bounds, node: NodeProto) -> str:
    (axis,) = (each.i for each in node.attribute)
    return bounds.call("Concat", *map(bounds.error, node.input), axis=axis)


def _pad(bounds: Bounds, node: NodeProto) -> str:
    return bounds.call("Pad", bounds.errors[node.input[0]], node.input[1])


def _batch_norm(bounds: Bounds, node: NodeProto) -> str:
    x, scale, _, mean, variance = node.input
    said = {each.name: helper.get_attribute_value(each) for each in node.attribute}
    zero = bounds.call("Sub", mean, mean)
    inputs = (bounds.errors[x], bounds.call("Abs", scale), zero, zero, variance)
    return bounds.call("BatchNormalization", *inputs, **said)


def _softmax(bounds: Bounds, node: NodeProto) -> str:
    """No number changes by more than the factor `exp(2 m)`, nor by more than `m / 2` or 1; `m` is the largest error."""
    (axis,) = (each.i for each in node.attribute)
    e = bounds.errors[node.input[0]]
    most = bounds.call("ReduceMax", e, bounds.number(np.array([axis])), keepdims=1)
    twice = bounds.call("Min", bounds.call("Mul", most, bounds.number(2.0)), bounds.number(20.0))
    factor = bounds.call("Sub", bounds.call("Exp", twice), bounds.number(1.0))
    grown = bounds.call("Mul", node.output[0], factor)
    return bounds.call("Min", grown, bounds.call("Mul", most, bounds.number(0.5)), bounds.number(1.0))


def _layer_norm(bounds: Bounds, node: NodeProto) -> str:
    """By the derivative `(d - mean d - n mean(n d)) / s` of `n = (x - mean x) / s`, along the way from `x` to `x'`.

    The root mean square `r` of the error bounds how far `s` moves, and with `|n| <= (|x - mean x| + e + mean e) / s`,
    whose root mean square is at most 1, all of it.
    """
    said = {each.name: helper.get_attribute_value(each) for each in node.attribute}
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
    return bounds.call("Mul", moved, bounds.call("Abs", node.input[1]))


_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "Gemm", "MatMul", "Mul"), _bilinear),
    **dict.fromkeys(("Add", "Sub", "Sum"), _added),
    "BatchNormalization": _batch_norm,
    "Concat": _concat,
    "LayerNormalization": _layer_norm,
    "Pad": _pad,
    "Softmax": _softmax,
}
