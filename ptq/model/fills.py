"""Weights that nodes compute from constants, such as a ConstantOfShape: which of them are to be stored.

A fill takes a few bytes and may stand for any amount of memory, so it is stored only where a layer reads it: as weight
or bias, or as what a layer takes up from behind it. It may go through nodes that compute from constants on its way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import onnx_ir as ir

from ptq.errors import ModelError

_SMALL = 64
_MOST_BYTES = (1 << 31) - 1
"""What an ONNX file can hold, and so all fills of a model together."""

_LAYERS = frozenset({"Conv", "Gemm", "MatMul"})
_TAKEN_UP = frozenset({"BatchNormalization", "Mul", "Add"})


def fold_rule(graph: ir.Graph) -> Callable[[ir.Node], bool | None]:
    """Says of a node of the graph whether it has to be folded; None leaves that to the rules for other operators.

    It raises a ModelError when what is to be stored does not fit into a file.
    """
    wanted = _read_by_layers(graph)
    stored = 0

    def fold(node: ir.Node) -> bool | None:
        nonlocal stored
        count = _count(node)
        if count is None:
            return None
        if count <= _SMALL:
            return True
        if node not in wanted:
            return None
        stored += count * _item_bytes(node)
        if stored > _MOST_BYTES:
            raise ModelError(
                f"the weights that nodes compute, up to {node.outputs[0].name!r}, come to {stored / 1e9:.1f} GB, more "
                f"than the 2 GB that one ONNX file holds; quantize a smaller part of the model"
            )
        return True

    return fold


def _count(node: ir.Node) -> int | None:
    """How many numbers a ConstantOfShape makes, when that is known; Python's integers do not overflow."""
    shape = node.inputs[0].const_value if node.op_type == "ConstantOfShape" and node.inputs[0] is not None else None
    return None if shape is None else math.prod(int(size) for size in shape.numpy().reshape(-1))


def _item_bytes(node: ir.Node) -> int:
    value = node.attributes.get("value")
    return 4 if value is None else math.ceil(value.as_tensor().dtype.itemsize)


def _read_by_layers(graph: ir.Graph) -> set[ir.Node]:
    """The nodes that compute from constants what layers read."""
    fixed = _fixed(graph)
    found: set[ir.Node] = set()
    left = [value for node in graph if node.op_type in _LAYERS for value in _operands(node, fixed)]
    while left:
        value = left.pop()
        node = value.producer()
        if node is None or node in found or value not in fixed:
            continue
        found.add(node)
        left.extend(each for each in node.inputs if each is not None)
    return found


def _fixed(graph: ir.Graph) -> set[ir.Value]:
    """What is constant or computed from constants alone."""
    fixed = {value for value in graph.initializers.values() if value.const_value is not None}
    for node in graph:
        if all(value is None or value in fixed for value in node.inputs):
            fixed |= set(node.outputs)
    return fixed


def _operands(node: ir.Node, fixed: set[ir.Value]) -> Iterator[ir.Value]:
    """Weight and bias of a layer, and the numbers per channel of the nodes behind it that it takes up."""
    if len(node.inputs) < 2 or node.inputs[1] not in fixed:
        return
    yield from (value for value in node.inputs[1:] if value is not None)
    while True:
        (out, *_), readers = node.outputs, node.outputs[0].consumers()
        if len(readers) != 1 or readers[0].op_type not in _TAKEN_UP or out.is_graph_output():
            return
        node = readers[0]
        others = [value for value in node.inputs if value is not None and value is not out]
        if not all(value in fixed and _is_vector(value) for value in others):
            return
        yield from others


def _is_vector(value: ir.Value) -> bool:
    sizes = None if value.shape is None else [size for size in value.shape if size != 1]
    return sizes is not None and len(sizes) <= 1
