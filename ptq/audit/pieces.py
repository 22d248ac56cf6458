"""A graph cut in front of and behind some of its nodes, so that these can be looked at while it runs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, numpy_helper

from ptq.errors import ModelError
from ptq.model.session import Session

Arrays = dict[str, np.ndarray]


class Pieces:
    """A model whose nodes `apart` run alone, each in a session of its own, and those between them together.

    What follows from stored tensors alone is computed once. Weights are read with the file.
    """

    def __init__(self, model: ModelProto, types: Mapping[str, int]) -> None:
        self._model, self._types = model, types
        self._stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self._constant = {"", *self._stored}
        self._fixed: list[NodeProto] = []
        self._running: list[NodeProto] = []
        for node in model.graph.node:
            if self._constant.issuperset(node.input) and not any(each.HasField("g") for each in node.attribute):
                self._constant.update(node.output)
                self._fixed.append(node)
            else:
                self._running.append(node)

    def is_constant(self, name: str) -> bool:
        """Whether a value follows from stored tensors alone."""
        return bool(name) and name in self._constant

    def type_of(self, name: str) -> int:
        """The type of the numbers of a value, as ONNX numbers types.

        Raises:
            ModelError: it is not known.

        """
        if name not in self._types:
            raise ModelError(f"the type of {name!r} is not known, so that the graph cannot be run in pieces")
        return self._types[name]

    def cut(self, apart: Collection[int]) -> list[list[NodeProto]]:
        """The nodes that run, in order, cut around those whose `id` is in `apart`."""
        found: list[list[NodeProto]] = [[]]
        for node in self._running:
            if id(node) in apart:
                found += [[node], []]
            else:
                found[-1].append(node)
        return [nodes for nodes in found if nodes]

    def constants(self, names: Collection[str]) -> Arrays:
        """The numbers of some constant values."""
        made = {name for node in self._fixed for name in node.output}
        found = {name: numpy_helper.to_array(self._stored[name]) for name in names if name in self._stored}
        computed = [name for name in names if name in made]
        if computed:
            session = self.session(self._fixed, computed)
            found |= dict(zip(session.outputs, session.run({}), strict=True))
        return found

    def session(self, nodes: Sequence[NodeProto], outputs: Sequence[str]) -> Session:
        """A session of some nodes, that gives some of the values that they make.

        Raises:
            ModelError: the type of a value is not known, or ONNX Runtime does not load it.

        """
        made = {name for node in nodes for name in node.output}
        read = dict.fromkeys(name for node in nodes for name in node.input if name and name not in made)
        stored = [self._stored[name] for name in read if name in self._stored]
        inputs = [self._value(name) for name in read if name not in self._stored]
        graph = onnx.helper.make_graph(nodes, "piece", inputs, [self._value(name) for name in outputs], stored)
        opsets, version = self._model.opset_import, self._model.ir_version
        model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=version, functions=self._model.functions)
        return Session(model.SerializeToString())

    def _value(self, name: str) -> onnx.ValueInfoProto:
        return onnx.helper.make_tensor_value_info(name, self.type_of(name), None)


def types_of(model: ModelProto) -> dict[str, int]:
    """The types of values, as far as they can be inferred."""
    graph = onnx.shape_inference.infer_shapes(model).graph
    found = {tensor.name: tensor.data_type for tensor in graph.initializer}
    values = (*graph.input, *graph.value_info, *graph.output)
    return found | {value.name: kind for value in values if (kind := value.type.tensor_type.elem_type)}
