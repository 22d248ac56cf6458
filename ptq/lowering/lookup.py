"""Embedding tables: rows are taken as they are stored, and only those are brought back to float.

A DequantizeLinear in front of the Gather would do so with the whole table at every call.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from torch import Tensor

from ptq.errors import ModelError
from ptq.formats import Format
from ptq.lowering.builder import Builder, replace
from ptq.lowering.marks import marks
from ptq.lowering.planes import byte_table, codes_of, packed_bytes, stored_table
from ptq.lowering.terms import column, wide
from ptq.qtensor import QTensor, Term
from ptq.scales import LOGARITHMIC, coded, is_shared

_BYTE = 8


@dataclass(frozen=True)
class Rows:
    """A table that a product computes with too: numbers `(rows, in)` as they are after loading.

    Integers have scales `(rows,)`, or `(rows, groups)`, and maybe zero points `(rows, groups)`; floats have none.
    """

    numbers: ir.Value
    scale: ir.Value | None = None
    grouped: bool = False
    zero: ir.Value | None = None


def take(graph: ir.Graph, node: ir.Node, name: str, table: QTensor) -> None:
    """Let a Gather or a Slice of rows read a table as it is stored."""
    builder = Builder(graph, node, name)
    (term,) = table.terms
    result = _numbers(builder, node, term.values.numpy(), term.format, "plane1")
    if term.zero_point is not None:
        zero = _numbers(builder, node, term.zero_point.numpy(), term.format, "zero1")
        result = builder.call("Sub", result, wide(builder, zero, term, "zero1"), name="centred")
    if term.blocks is not None:
        factors = _numbers(builder, node, term.blocks.factors.numpy(), term.blocks.format, "scale1.groups")
        result = builder.call("Mul", result, wide(builder, factors, term, "factors1"), name="scaled")
    replace(graph, node, builder.call("Mul", result, _scale(builder, node, term.scale), name="row"))


def take_shared(graph: ir.Graph, node: ir.Node, name: str, rows: Rows, term: Term) -> None:
    """Let a Gather or a Slice take rows of the table of a term that a product computes with."""
    if rows.scale is None:
        node.replace_input_with(0, rows.numbers)
        return
    builder = Builder(graph, node, name)
    numbers = builder.cast(_taken(builder, node, rows.numbers, "row.integers"), ir.DataType.FLOAT, "row.numbers")
    if rows.zero is not None:
        zero = builder.cast(_taken(builder, node, rows.zero, "row.zero"), ir.DataType.FLOAT, "row.shift")
        shift = wide(builder, zero, term, "row.shift") if rows.grouped else zero
        numbers = builder.call("Sub", numbers, shift, name="row.centred")
    scale = rows.scale
    if not rows.grouped:
        scale = column(builder, scale, 2, "row.column")
    steps = _taken(builder, node, scale, "row.steps")
    factor = wide(builder, steps, term, "row") if rows.grouped else steps
    replace(graph, node, builder.call("Mul", numbers, factor, name="row"))


def _taken(builder: Builder, node: ir.Node, table: ir.Value, name: str) -> ir.Value:
    """What the node takes of another table of as many rows."""
    attributes = {key: attribute.value for key, attribute in node.attributes.items()}
    made = builder.node(node.op_type, table, *node.inputs[1:], name=name, **attributes)
    made.metadata_props.update(marks(node))
    return made.outputs[0]


def _numbers(builder: Builder, node: ir.Node, values: np.ndarray, fmt: Format, name: str) -> ir.Value:
    """Rows of numbers `(rows, n)` of a format as float32, taken as codes, several in a byte."""
    bits = fmt.bits * fmt.span
    if bits > _BYTE:
        stored = _taken(builder, node, builder.constant(name, values, fmt.onnx), f"{name}.taken")
        return builder.cast(stored, ir.DataType.FLOAT, f"{name}.numbers")
    shape = node.outputs[0].shape
    width = next(held for held in (1, 2, 4, _BYTE) if held >= bits) if shape is not None else _BYTE
    packed = builder.constant(name, packed_bytes(codes_of(values, fmt), width))
    places = builder.cast(_taken(builder, node, packed, f"{name}.taken"), ir.DataType.INT32, f"{name}.bytes")
    table = stored_table(builder, byte_table(fmt, width), fmt, f"bytes.{fmt.name}.{width}", name)
    found = builder.call("Gather", table, places, name=f"{name}.numbers")
    if fmt.span > 1 and shape is None:
        raise ModelError(
            f"{node.name} takes rows of an embedding table, the rank of what it gives is not known, and {fmt.name} has "
            f"several numbers in a code; give the model shapes, or --embeddings int8"
        )
    if (width == _BYTE and fmt.span == 1) or shape is None:
        return found
    joined = builder.shared(f"joined.{len(shape)}", np.array([0] * (len(shape) - 1) + [-1]))
    found = builder.call("Reshape", found, joined, name=f"{name}.joined")
    if values.shape[1] % (_BYTE // width * fmt.span) == 0:
        return found
    ends = (builder.constant(f"ends.{name}.{k}", np.array([end])) for k, end in enumerate((0, values.shape[1], -1)))
    return builder.call("Slice", found, *ends, name=f"{name}.exact")


def _scale(builder: Builder, node: ir.Node, scale: Tensor) -> ir.Value:
    """The scales of the rows that are taken, `(…, 1)`, or the one of all."""
    if is_shared(scale):
        return builder.constant("scale1", scale[:1].numpy())
    short = coded(scale)
    if short is None:
        return _taken(builder, node, builder.constant("scale1", scale.numpy()[:, None]), "scale1.taken")
    relative = np.array(LOGARITHMIC.values)[short.codes.numpy()]
    numbers = _numbers(builder, node, relative[:, None], LOGARITHMIC, "scale1")
    return builder.call("Mul", numbers, builder.constant("unit", np.array(short.unit, np.float32)), name="steps")
