"""The kernels that run a file, whoever made it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onnx import NodeProto

from ptq.audit.graphs import COMPUTING, GraphIndex, is_integer, optimized_graph

_MORE_COMPUTING = frozenset({
    "Attention", "ConvTranspose", "DeformConv", "DynamicQuantizeLSTM", "MultiHeadAttention", "QAttention",
})  # fmt: skip
_MORE_INTEGER = frozenset({"DynamicQuantizeLSTM", "QAttention"})


@dataclass(frozen=True)
class Census:
    """How many nodes of the optimized graph compute with weights, by operator, and how many of them in int8.

    `decoded` of them decode their weight at every call. `others` compute with activations alone, as attention does.
    """

    kernels: Mapping[str, int]
    integer: int
    decoded: int
    others: Mapping[str, int]

    @property
    def layers(self) -> int:
        """All that compute with weights."""
        return sum(self.kernels.values())


def census(path: Path) -> Census:
    """The census of a file.

    Raises:
        AuditError: the file does not load.

    """
    graph = optimized_graph(path)
    index = GraphIndex.of(graph)
    kernels, others, integer, decoded = Counter[str](), Counter[str](), 0, 0
    for node in graph.node:
        if node.op_type not in COMPUTING | _MORE_COMPUTING:
            continue
        weights = [name for name in _operands(node) if name in index.constant]
        if not weights:
            others[node.op_type] += 1
            continue
        kernels[node.op_type] += 1
        integer += is_integer(node) or node.op_type in _MORE_INTEGER
        decoded += index.stored.isdisjoint(weights)
    return Census(dict(kernels.most_common()), integer, decoded, dict(others.most_common()))


def _operands(node: NodeProto) -> list[str]:
    """What a node multiplies: its first inputs, or those behind each scale and zero point."""
    second = 3 if node.op_type.startswith(("QLinear", "QGemm")) else 1
    return [node.input[slot] for slot in (0, second) if slot < len(node.input) and node.input[slot]]
