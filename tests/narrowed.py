"""Models of float32 with their constants rounded to what all floats hold, and the same models in other floats."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, TensorProto, numpy_helper
from other_floats import KINDS, rounded

Turned = Callable[[np.ndarray], np.ndarray]
_ZERO = numpy_helper.from_array(np.zeros(1, np.float32))


def snapped(model: onnx.ModelProto) -> onnx.ModelProto:
    """With constants that all floats hold."""
    return _turned(model, "float32")


def narrowed(model: onnx.ModelProto, kind: str) -> onnx.ModelProto:
    """In floats of another kind: constants, inputs, outputs, and what nodes are told to make."""
    return _turned(model, kind)


def _turned(model: onnx.ModelProto, kind: str) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    _turn_graph(copy.graph, kind)
    for function in copy.functions:
        _turn_nodes(function.node, kind)
    return copy


def _turn_graph(graph: GraphProto, kind: str) -> None:
    tensors = [_tensor(tensor, kind) for tensor in graph.initializer]
    del graph.initializer[:]
    graph.initializer.extend(tensors)
    for value in (*graph.input, *graph.output, *graph.value_info):
        sequence = value.type.HasField("sequence_type")
        said = (value.type.sequence_type.elem_type if sequence else value.type).tensor_type
        if said.elem_type == TensorProto.FLOAT:
            said.elem_type = KINDS[kind][1]
    _turn_nodes(graph.node, kind)


def _turn_nodes(nodes: Iterable[onnx.NodeProto], kind: str) -> None:
    for node in nodes:
        if node.op_type == "ConstantOfShape" and not node.attribute:
            node.attribute.append(onnx.helper.make_attribute("value", _ZERO))
        for attribute in node.attribute:
            _turn(attribute, kind)


def _turn(attribute: AttributeProto, kind: str) -> None:
    if attribute.name in ("value_float", "value_floats"):
        numbers = attribute.f if attribute.name == "value_float" else list(attribute.floats)
        attribute.CopyFrom(onnx.helper.make_attribute("value", numpy_helper.from_array(np.array(numbers, np.float32))))
    if attribute.HasField("t"):
        attribute.t.CopyFrom(_tensor(attribute.t, kind))
    if attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT:
        attribute.i = KINDS[kind][1]
    for graph in _graphs(attribute):
        _turn_graph(graph, kind)


def _graphs(attribute: AttributeProto) -> Iterator[GraphProto]:
    if attribute.HasField("g"):
        yield attribute.g
    yield from attribute.graphs


def _tensor(tensor: TensorProto, kind: str) -> TensorProto:
    if tensor.data_type != TensorProto.FLOAT:
        return tensor
    array = rounded(numpy_helper.to_array(tensor), kind)
    raw = np.ascontiguousarray(array).tobytes()
    return TensorProto(name=tensor.name, data_type=KINDS[kind][1], dims=array.shape, raw_data=raw)
