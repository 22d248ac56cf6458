"""The types of the numbers in a graph, those behind operators that ONNX does not know included."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import onnx
import onnx_ir as ir
import onnx_ir.passes.common as passes

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16, ir.DataType.BFLOAT16, ir.DataType.DOUBLE})

Elements = Mapping[ir.Value, ir.DataType]


def element_types(model: ir.Model) -> dict[ir.Value, ir.DataType]:
    """The type of the numbers of each value, as far as it is known; the graph gets what ONNX infers.

    The outputs of an operator that ONNX does not know, as ONNX Runtime has some, are of the type of its first floats.
    """
    passes.ShapeInferencePass(check_type=False, strict_mode=False, data_prop=False)(model)
    found: dict[ir.Value, ir.DataType] = {}
    for value in values_of(model.graph):
        if value.dtype is not None and value.dtype != ir.DataType.UNDEFINED:
            found[value] = value.dtype
    known = -1
    while known < len(found):
        known = len(found)
        for node in model.graph.all_nodes():
            for index, out in enumerate(node.outputs):
                dtype = None if out in found else _inferred(node, index, found, model.opset_imports)
                if dtype is not None:
                    found[out] = dtype
    return found


def bodies(node: ir.Node) -> Iterator[ir.Graph]:
    """The graphs inside of a node."""
    for held in node.attributes.values():
        if held.type == ir.AttributeType.GRAPH:
            yield held.as_graph()
        elif held.type == ir.AttributeType.GRAPHS:
            yield from held.as_graphs()


def ends(node: ir.Node) -> list[ir.Value]:
    """What a node reads and makes, and what goes into the graphs inside of it and comes out."""
    inside = [value for body in bodies(node) for value in (*body.inputs, *body.outputs)]
    return [value for value in (*node.inputs, *node.outputs, *inside) if value is not None]


def values_of(graph: ir.Graph) -> Iterator[ir.Value]:
    """All values of a graph and of those inside of it."""
    for each in (graph, *(body for node in graph.all_nodes() for body in bodies(node))):
        yield from (*each.inputs, *each.initializers.values())
    for node in graph.all_nodes():
        yield from node.outputs


def _inferred(node: ir.Node, index: int, found: Elements, opsets: Mapping[str, int]) -> ir.DataType | None:
    """The type of an output by those of what must be of the same."""
    inside = [body.outputs for body in bodies(node)]
    if inside:
        place = index + (node.op_type == "Loop")  # whose body says first whether to go on
        alike = [outputs[place] for outputs in inside if place < len(outputs)]
    else:
        alike = _alike(node, index, found, opsets)
    return next((found[value] for value in alike if value in found), None)


def _alike(node: ir.Node, index: int, found: Elements, opsets: Mapping[str, int]) -> list[ir.Value]:
    """The inputs whose type that of an output is."""
    try:
        schema = onnx.defs.get_schema(node.op_type, opsets.get(node.domain, 1), node.domain)
    except onnx.defs.SchemaError:
        return [value for value in node.inputs if value is not None and found.get(value) in FLOATS]
    wanted = _said(schema.outputs, index)
    return [each for k, each in enumerate(node.inputs) if each and _said(schema.inputs, k) == wanted]


def _said(formal: Sequence[onnx.defs.OpSchema.FormalParameter], index: int) -> str | None:
    """What is said of the type of an input or output; the last of them may stand for many."""
    return formal[min(index, len(formal) - 1)].type_str if formal else None
