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

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from error_rules import NOISE, RULES
from onnx import ModelProto, NodeProto, helper, numpy_helper

from ptq.model.session import Session

_HALF = 0.5001


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
    """Writes errors beside the nodes of a float graph; tensors with a grid, scale and zero point, are rounded to it.

    `tables` has how far each number of a table is off, by the node that takes rows of it.
    """

    model: ModelProto
    layers: Mapping[str, Layer]
    tables: Mapping[str, np.ndarray]
    grids: Mapping[str, tuple[float, int]]
    fused: bool
    nodes: list[NodeProto] = field(default_factory=list)
    stored: dict[str, np.ndarray] = field(default_factory=dict)
    errors: dict[str, str] = field(default_factory=dict)
    raw: dict[str, str] = field(default_factory=dict)
    """Errors of tensors with a grid before they were rounded to it."""
    divisors: dict[str, str] = field(default_factory=dict)
    """What is divided by, of its reciprocal."""

    def session(self) -> Session:
        """Of the float outputs, then of their errors."""
        for value in self.model.graph.input:
            self._round(value.name)
        for node in self.model.graph.node:
            self.nodes.append(node)
            self.errors.update(zip(node.output, self._rule(node), strict=False))
            for name in node.output:
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
        self.errors[name] = self.rounded(name, self.errors.get(name), *grid)

    def rounded(self, name: str, error: str | None, step: float, zero: int) -> str:
        """The error of a tensor that is rounded to a grid."""
        ends = [self.number(step * (code - zero)) for code in (0, 255)]
        away = self.call("Abs", self.call("Sub", name, self.call("Clip", name, *ends)))
        own = self.call("Max", away, self.number(_HALF * step))
        return self.sum(own, error)

    def times(self, error: str, factor: float) -> str:
        """A multiple."""
        return self.call("Mul", error, self.number(factor))

    def _rule(self, node: NodeProto) -> list[str]:
        layer = self.layers.get(node.name)
        if layer is not None:
            return [self._product(node, layer)]
        if node.name in self.tables:
            return [self.call("Gather", self.number(self.tables[node.name]), node.input[1])]
        return RULES[node.op_type](self, node) if any(name in self.errors for name in node.input) else []

    def _product(self, node: NodeProto, layer: Layer) -> str:
        """Of a layer: from its input, its weight and its bias."""
        x, w, *bias = node.input
        said = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        incoming = self.errors.get(x)
        if layer.dynamic:
            incoming = self.sum(incoming, self._reach(x, incoming))
        noisy = self.sum(incoming, self.times(self.call("Abs", x), NOISE))
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
        return self.times(self.call("Sub", high, low), _HALF / 255)

    def constant(self, name: str) -> np.ndarray:
        return numpy_helper.to_array(next(each for each in self.model.graph.initializer if each.name == name))
