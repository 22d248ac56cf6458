"""Write nodes into a graph, in front of a node."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

import ml_dtypes
import numpy as np
import onnx_ir as ir

from ptq.errors import ModelError
from ptq.model.naming import SHARED


class StoredType(NamedTuple):
    """An ONNX type: what numpy calls it, its number, and the first opset that casts it."""

    dtype: Any
    onnx: ir.DataType
    least_opset: int = 1


STORED: Final = {
    "INT2": StoredType(ml_dtypes.int2, ir.DataType.INT2, 25),
    "UINT2": StoredType(ml_dtypes.uint2, ir.DataType.UINT2, 25),
    "INT4": StoredType(ml_dtypes.int4, ir.DataType.INT4, 21),
    "UINT4": StoredType(ml_dtypes.uint4, ir.DataType.UINT4, 21),
    "INT8": StoredType(np.int8, ir.DataType.INT8),
    "UINT8": StoredType(np.uint8, ir.DataType.UINT8),
    "FLOAT8E4M3FN": StoredType(ml_dtypes.float8_e4m3fn, ir.DataType.FLOAT8E4M3FN, 19),
    "FLOAT8E4M3FNUZ": StoredType(ml_dtypes.float8_e4m3fnuz, ir.DataType.FLOAT8E4M3FNUZ, 19),
    "FLOAT8E5M2": StoredType(ml_dtypes.float8_e5m2, ir.DataType.FLOAT8E5M2, 19),
    "FLOAT8E5M2FNUZ": StoredType(ml_dtypes.float8_e5m2fnuz, ir.DataType.FLOAT8E5M2FNUZ, 19),
    "FLOAT16": StoredType(np.float16, ir.DataType.FLOAT16),
    "BFLOAT16": StoredType(ml_dtypes.bfloat16, ir.DataType.BFLOAT16, 13),
}
"""The types that weights and scales are stored in: ONNX Runtime reads them on the CPU, in the opsets of our files."""


class Builder:
    """Nodes and initializers whose names begin with `prefix`, written in front of `anchor`."""

    def __init__(self, graph: ir.Graph, anchor: ir.Node, prefix: str) -> None:
        self._graph = graph
        self._anchor = anchor
        self._prefix = prefix

    @property
    def opset(self) -> int:
        """Of the standard operators."""
        return self._graph.opset_imports[""]

    def constant(self, name: str, array: np.ndarray, stored: str | None = None) -> ir.Value:
        """An initializer, once per name; `stored` is an ONNX type that numpy lacks. Rank 0 stays rank 0.

        Raises:
            ModelError: the graph holds another initializer of that name.

        """
        full = f"{self._prefix}/{name}"
        if full in self._graph.initializers:
            raise ModelError(f"the graph already has an initializer {full!r}; rename it")
        dtype, onnx = STORED[stored][:2] if stored else (array.dtype, None)
        tensor = ir.tensor(array.astype(dtype, order="C", copy=False), dtype=onnx, name=full)
        value = ir.Value(name=full, const_value=tensor, type=ir.TensorType(tensor.dtype))
        self._graph.register_initializer(value)
        return value

    def shared(self, name: str, array: np.ndarray) -> ir.Value:
        """An initializer that all builders of a graph have in common.

        Raises:
            ModelError: the graph holds another initializer of that name.

        """
        full = f"{SHARED}/{name}"
        value = self._graph.initializers.get(full)
        if value is None:
            value = ir.Value(name=full, const_value=ir.tensor(array, name=full))
            self._graph.register_initializer(value)
        elif value.const_value is None or not np.array_equal(value.const_value.numpy(), array):
            raise ModelError(f"the graph already has an initializer {full!r}; rename it")
        return value

    def call(self, op: str, *inputs: ir.Value | None, name: str | None = None, **attributes: Any) -> ir.Value:
        """The output of a new node."""
        return self.node(op, *inputs, name=name, **attributes).outputs[0]

    def node(
        self, op: str, *inputs: ir.Value | None, name: str | None = None, outputs: int = 1, **attributes: Any
    ) -> ir.Node:
        """A new node; its outputs are named after it."""
        full = f"{self._prefix}/{name or op.lower()}"
        node = ir.node(op, inputs, attributes, num_outputs=outputs, name=full)
        for index, value in enumerate(node.outputs):
            value.name = full if index == 0 else f"{full}.{index}"
        self._graph.insert_before(self._anchor, node)
        return node

    def cast(self, value: ir.Value, dtype: ir.DataType, name: str) -> ir.Value:
        """Cast to another type."""
        made = self.call("Cast", value, name=name, to=int(dtype))
        made.type = ir.TensorType(dtype)
        return made


def first_reader(graph: ir.Graph, value: ir.Value) -> ir.Node:
    """The first node that reads a value."""
    return next(node for node in graph if value in node.inputs)


def replace(graph: ir.Graph, node: ir.Node, result: ir.Value) -> None:
    """Let a value stand for the output of a node, and drop the node."""
    old = node.outputs[0]
    result.shape, result.type = old.shape, old.type
    name = old.name
    ir.convenience.replace_all_uses_with(old, result, replace_graph_outputs=True)
    old.name, result.name = f"{name}/float", name
    graph.remove(node, safe=True)
