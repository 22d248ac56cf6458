"""Graphs that ONNX Runtime made or is given, by the names in them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from onnx import GraphProto, NodeProto

from ptq.disk import check_room, passing
from ptq.errors import AuditError
from ptq.model.session import Session

_INTEGER = frozenset({
    "ConvInteger", "DynamicQuantizeMatMul", "MatMulInteger", "MatMulIntegerToFloat", "QGemm", "QLinearConv",
    "QLinearMatMul",
})  # fmt: skip
_FLOAT = frozenset({
    "Conv", "FusedConv", "FusedGemm", "FusedMatMul", "GRU", "Gemm", "LSTM", "MatMul", "MatMulNBits", "NhwcConv",
    "NhwcFusedConv", "RNN",
})  # fmt: skip
COMPUTING = _INTEGER | _FLOAT
_DECODING = frozenset({
    "Add", "BitShift", "BitwiseAnd", "Cast", "DequantizeLinear", "Div", "Gather", "GatherND", "Identity", "Mul",
    "QuantizeLinear", "Reshape", "Round", "ScatterND", "Slice", "Squeeze", "Sub", "Transpose", "Unsqueeze",
})  # fmt: skip
"""What stands between a stored weight and the node that computes with it."""
_INT8_ACCURACY = 4


def optimized_graph(path: Path) -> GraphProto:
    """What ONNX Runtime makes of a file, without its weights.

    Raises:
        AuditError: the file does not load.
        OutputError: there is no room for what it is made to.

    """
    with passing() as folder:
        optimized = folder / "optimized.onnx"
        try:
            Session(path, optimized_path=optimized)
            graph = onnx.load(optimized, format="protobuf", load_external_data=False).graph
        except Exception as error:  # protobuf's errors share no base class with others
            check_room(folder, path.stat().st_size)
            raise AuditError(f"{path}: {error}") from error
        if not graph.node:
            check_room(folder, path.stat().st_size)
        return graph


def is_integer(node: NodeProto) -> bool:
    """Whether a node computes in int8: of MatMulNBits, an attribute says so, whose float32 default is 0."""
    accuracy = next((attribute.i for attribute in node.attribute if attribute.name == "accuracy_level"), None)
    return node.op_type in _INTEGER or accuracy == _INT8_ACCURACY


@dataclass(frozen=True)
class GraphIndex:
    """A graph by its names; what is decoded from stored tensors alone is constant like those."""

    stored: frozenset[str]
    constant: frozenset[str]
    producer: Mapping[str, NodeProto]
    readers: Mapping[str, Sequence[NodeProto]]
    named: Mapping[str, NodeProto]

    @classmethod
    def of(cls, graph: GraphProto) -> GraphIndex:
        """That of a graph."""
        readers: dict[str, list[NodeProto]] = {}
        stored = frozenset(tensor.name for tensor in graph.initializer)
        constant = {"", *stored}
        for node in graph.node:  # in the order of execution
            for name in node.input:
                readers.setdefault(name, []).append(node)
            if node.op_type in _DECODING and constant.issuperset(node.input):
                constant.update(node.output)
        return cls(
            stored,
            frozenset(constant),
            {name: node for node in graph.node for name in node.output if name},
            readers,
            {node.name: node for node in graph.node},
        )
