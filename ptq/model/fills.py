"""Weights that nodes compute from constants, such as a ConstantOfShape: which of them are to be stored.

A fill takes a few bytes and may stand for any amount of memory, so it is stored only where a layer reads it: as weight
or bias, or as what a layer takes up from behind it. It may go through nodes that compute from constants on its way.
So with whatever else grows, as Expand, Tile, Range and products do.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import onnx
import onnx_ir as ir

from ptq.errors import ModelError
from ptq.model.elements import FLOATS

_SMALL = 64
_WIDEST = 8
_MOST_BYTES = (1 << 31) - 1
"""What an ONNX file can hold, and so all fills of a model together."""

_MOST_SPARE_BYTES = 1 << 24
"""Of what grows and no layer reads, such as masks, all together."""

_THINNING = frozenset({"Compress", "NonZero", "Unique"})
"""How much these make is not known before, but no more than they read, but for the numbers of axes."""

_LAYERS = frozenset({"Conv", "Gemm", "MatMul"})
_TAKEN_UP = frozenset({"BatchNormalization", "Mul", "Add"})


def fold_rule(model: ir.Model) -> Callable[[ir.Node], bool | None]:
    """Says of a node of the graph whether it is folded; None leaves that to the rules for its operator.

    It raises a ModelError when what is to be stored does not fit into a file.
    """
    wanted = _read_by_layers(model.graph)
    stored = spare = 0

    def fold(node: ir.Node) -> bool | None:
        nonlocal stored, spare
        made = _made_bytes(node, model.opset_imports)
        if made is None:
            return None if node.op_type in _THINNING else False
        fill = node.op_type == "ConstantOfShape"
        if made <= _SMALL * (_item_bytes(node) if fill else _WIDEST):
            return True if fill else None
        if not fill and (made <= _read_bytes(node) or _converts_floats(node)):
            return None
        if node in wanted:
            stored += made
            if stored > _MOST_BYTES:
                raise ModelError(
                    f"the weights that nodes compute, up to {node.outputs[0].name!r}, come to {stored / 1e9:.1f} GB, "
                    f"more than the 2 GB that one ONNX file holds; quantize a smaller part of the model"
                )
            return True if fill else None
        spare += made
        return None if spare <= _MOST_SPARE_BYTES else False

    return fold


def _made_bytes(node: ir.Node, opsets: Mapping[str, int]) -> int | None:
    """How many bytes a node of constants makes, when that is known before it; what the file says of it is no proof."""
    if node.op_type == "ConstantOfShape":  # Python's integers do not overflow
        shape = None if node.inputs[0] is None else node.inputs[0].const_value
        return None if shape is None else math.prod(int(size) for size in shape.numpy().reshape(-1)) * _item_bytes(node)
    read = {str(each.name): each.const_value for each in node.inputs if each is not None and each.const_value}
    types = {name: (int(each.dtype), each.shape.numpy()) for name, each in read.items()}
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets[node.domain], node.domain)
        found = onnx.shape_inference.infer_node_outputs(
            schema,
            ir.serde.serialize_node(node),
            {name: onnx.helper.make_tensor_type_proto(*each) for name, each in types.items()},
            {name: ir.to_proto(each) for name, each in read.items() if each.size <= _SMALL},
        )
    except Exception:  # noqa: BLE001  (the library has no class for it; then it is not known)
        return None
    sizes = [size for each in found.values() if (size := _bytes(each.tensor_type)) is not None]
    return sum(sizes) if len(sizes) == len(node.outputs) else None


def _bytes(found: onnx.TypeProto.Tensor) -> int | None:
    """The size of a tensor of a known type and shape."""
    dtype = ir.DataType(found.elem_type)
    known = found.HasField("shape") and all(size.HasField("dim_value") for size in found.shape.dim)
    if not known or dtype == ir.DataType.UNDEFINED:
        return None
    item = 1 if dtype == ir.DataType.STRING else math.ceil(dtype.itemsize)
    return item * math.prod(int(size.dim_value) for size in found.shape.dim)


def _converts_floats(node: ir.Node) -> bool:
    """Whether a node brings floats to others: as many, and those that float16 stores are weights."""
    read = node.inputs[0] if node.op_type == "Cast" else None
    return read is not None and read.dtype in FLOATS and node.attributes["to"].as_int() in FLOATS


def _read_bytes(node: ir.Node) -> int:
    """The size of what a node reads, each tensor once."""
    return sum(value.const_value.nbytes for value in set(node.inputs) if value is not None and value.const_value)


def _item_bytes(node: ir.Node) -> int:
    """Bytes of a number that a fill makes."""
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
