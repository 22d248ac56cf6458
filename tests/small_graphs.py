"""Small ONNX graphs made of nodes: a product with one weight, and what stands before it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WEIGHT = np.arange(12, dtype=np.float32).reshape(4, 3) / 8
Node = onnx.NodeProto
node = helper.make_node


def value(name: str, shape: Sequence[int | str] | None, kind: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def network(
    nodes: Sequence[Node],
    weights: dict[str, np.ndarray] | None = None,
    inputs: Sequence[onnx.ValueInfoProto] = (value("x", ["n", 4]),),
    outputs: Sequence[onnx.ValueInfoProto] = (value("y", ["n", 3]),),
    functions: Sequence[onnx.FunctionProto] = (),
    domains: Sequence[str] = (),
) -> onnx.ModelProto:
    """A graph from float[n,4] x to float[n,3] y, with the weight `w` (4, 3)."""
    stored = [numpy_helper.from_array(array, name) for name, array in {"w": WEIGHT, **(weights or {})}.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, stored)
    opsets = [helper.make_opsetid("", 20), *(helper.make_opsetid(domain, 1) for domain in domains)]
    return helper.make_model(graph, ir_version=10, opset_imports=opsets, functions=functions)


PRODUCT = node("MatMul", ["x", "w"], ["y"], name="product")


def behind(nodes: Sequence[Node], **more: np.ndarray) -> onnx.ModelProto:
    """The product of what the nodes make as `a`."""
    return network([*nodes, node("MatMul", ["a", "w"], ["y"])], more)


def function(name: str, *called: str) -> onnx.FunctionProto:
    """One of x to y that calls others in a row."""
    names = ["x", *(f"v{k}" for k in range(len(called) - 1)), "y"]
    nodes = [node(op, [names[k]], [names[k + 1]], domain="" if op == "Relu" else "mine") for k, op in enumerate(called)]
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("mine", 1)]
    return helper.make_function("mine", name, ["x"], ["y"], nodes, opsets)


def calling(name: str, *functions: onnx.FunctionProto) -> onnx.ModelProto:
    nodes = [node(name, ["x"], ["a"], domain="mine"), node("MatMul", ["a", "w"], ["y"])]
    return network(nodes, functions=functions, domains=["mine"])
