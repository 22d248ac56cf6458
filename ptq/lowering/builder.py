"""Write nodes into a graph, in front of a node."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx_ir as ir

from ptq.errors import ModelError

_STORED: dict[str, tuple[Any, ir.DataType]] = {
    "INT4": (ml_dtypes.int4, ir.DataType.INT4),
    "INT2": (ml_dtypes.int2, ir.DataType.INT2),
    "BFLOAT16": (ml_dtypes.bfloat16, ir.DataType.BFLOAT16),
}

_SHARED = "ptq"
"""What the names of initializers that many builders use begin with."""


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
        dtype, onnx = _STORED[stored] if stored else (array.dtype, None)
        value = ir.Value(name=full, const_value=ir.tensor(array.astype(dtype), dtype=onnx, name=full))
        self._graph.register_initializer(value)
        return value

    def shared(self, name: str, array: np.ndarray) -> ir.Value:
        """An initializer that all builders of a graph have in common.

        Raises:
            ModelError: the graph holds another initializer of that name.

        """
        full = f"{_SHARED}/{name}"
        value = self._graph.initializers.get(full)
        if value is None:
            value = ir.Value(name=full, const_value=ir.tensor(array, name=full))
            self._graph.register_initializer(value)
        elif value.const_value is None or not np.array_equal(value.const_value.numpy(), array):
            raise ModelError(f"the graph already has an initializer {full!r}; rename it")
        return value

    def call(self, op: str, *inputs: ir.Value, name: str | None = None, **attributes: Any) -> ir.Value:
        """The output of a new node."""
        return self.node(op, *inputs, name=name, **attributes).outputs[0]

    def node(self, op: str, *inputs: ir.Value, name: str | None = None, outputs: int = 1, **attributes: Any) -> ir.Node:
        """A new node; its outputs are named after it."""
        full = f"{self._prefix}/{name or op.lower()}"
        node = ir.node(op, inputs, attributes, num_outputs=outputs, name=full)
        for index, value in enumerate(node.outputs):
            value.name = full if index == 0 else f"{full}.{index}"
        self._graph.insert_before(self._anchor, node)
        return node

    def cast(self, value: ir.Value, dtype: ir.DataType, name: str) -> ir.Value:
        """Cast to another type."""
        return self.call("Cast", value, name=name, to=int(dtype))


def replace(graph: ir.Graph, node: ir.Node, result: ir.Value) -> None:
    """Let a value stand for the output of a node, and drop the node."""
    old = node.outputs[0]
    result.shape, result.type = old.shape, old.type
    name = old.name
    ir.convenience.replace_all_uses_with(old, result, replace_graph_outputs=True)
    old.name, result.name = f"{name}/float", name
    graph.remove(node, safe=True)
