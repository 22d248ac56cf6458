"""Weights for MatMulNBits, as the standard DequantizeLinear that ONNX Runtime makes one of.

It does so only with weights in the layout `(in, out)` and with blocks along `in`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ptq.formats import INT8_MAX
from ptq.lowering.builder import Builder
from ptq.lowering.lookup import Rows
from ptq.lowering.planes import native
from ptq.lowering.terms import centred, column, group_factors, stored_scale
from ptq.lowering.weights import points
from ptq.qtensor import QTensor, Term


@dataclass(frozen=True)
class BlockWeight:
    """What a product multiplies with, `(in, out)`; and what a lookup takes rows of, where the weight is a table too."""

    image: ir.Value
    rows: Rows | None = None


def block_weight(builder: Builder, weight: QTensor, *, table: bool) -> BlockWeight:
    """Nodes for a weight; a table is stored by rows, so that they can be taken."""
    if len(weight.terms) > 1:
        return _summed(builder, weight)
    (term,) = weight.terms
    stored = None if table or _better_wide(term) else native(builder, term.values.numpy().T, term.format, "plane1")
    if stored is not None:
        zero = None if term.zero_point is None else native(builder, _by_column(term), term.format, "zero1")
        return BlockWeight(_image(builder, term, stored, _scale(builder, term, 1.0), zero))
    scale = _scale(builder, term, term.format.step)
    if term.zero_point is None or term.format.reach <= INT8_MAX:
        plane, shift, zero = centred(builder, term, 1, integer=True), None, None
    else:  # less the zero point, the numbers would not fit into int8
        plane = builder.constant("plane1", term.values.numpy(), term.format.onnx)
        shift = builder.constant("zero1", term.zero_point.numpy(), term.format.onnx)
        zero = builder.call("Transpose", shift, name="zero.columns", perm=[1, 0])
        if term.groups == 1:
            zero = builder.call("Reshape", zero, builder.shared("flat", np.array([-1])), name="zero.flat")
    stored = builder.call("Transpose", plane, name="columns", perm=[1, 0])
    return BlockWeight(_image(builder, term, stored, scale, zero), Rows(plane, scale, term.groups > 1, shift))


def _by_column(term: Term) -> np.ndarray:
    """Zero points as `(groups, out)`, `(out,)` where there is one group."""
    zeros = np.array([]) if term.zero_point is None else term.zero_point.numpy().T
    return zeros if term.groups > 1 else zeros.reshape(-1)


def _image(builder: Builder, term: Term, stored: ir.Value, scale: ir.Value, zero: ir.Value | None) -> ir.Value:
    """What a product multiplies with; one group is the whole column, as blocks have to be of certain sizes."""
    turned = builder.call("Transpose", scale, name="scale.columns", perm=[1, 0]) if term.groups > 1 else scale
    place = {"axis": 0, "block_size": term.blocks.size} if term.blocks and term.groups > 1 else {"axis": 1}
    inputs = [value for value in (stored, turned, zero) if value is not None]
    return builder.call("DequantizeLinear", *inputs, name="weight", **place)


def _better_wide(term: Term) -> bool:
    """Whether 8 bits are faster than those that are stored, in ONNX Runtime 1.32.

    With 2 bits MatMulNBits takes 1.4 times FP32's time for 90 tokens of MiniLM, with 8 bits 0.8 times. It also computes
    nonsense where the rows are no multiple of 4.
    """
    return term.format.bits == 2


def _summed(builder: Builder, weight: QTensor) -> BlockWeight:
    """The points of rows, in sum, as int8."""
    found = points(builder, weight, weight.shape, integer=False)
    turned = builder.call("Transpose", found.integers, name="columns", perm=[1, 0])
    if found.factors is None:
        image = builder.call("DequantizeLinear", turned, found.scale, name="weight", axis=1)
        return BlockWeight(image, Rows(found.integers, found.scale))
    term = next(term for term in weight.terms if term.blocks is not None)
    rows = column(builder, found.scale, 2, "scale.column")
    scale = builder.call("Mul", found.factors, rows, name="scale.blocks")
    if term.groups == 1:
        scale = builder.call("Reshape", scale, builder.shared("flat", np.array([-1])), name="scale.flat")
    return BlockWeight(_image(builder, term, turned, scale, None), Rows(found.integers, scale, term.groups > 1))


def _scale(builder: Builder, term: Term, step: float) -> ir.Value:
    """What integers are multiplied by: `(rows,)`, or `(rows, groups)` where there are several."""
    own = stored_scale(builder, term.scale * step, "scale1")
    if term.blocks is None:
        return own
    rows = column(builder, own, 2, "scale.column")
    scale = builder.call("Mul", group_factors(builder, term, 1, integer=False), rows, name="scale")
    if term.groups > 1:
        return scale
    return builder.call("Reshape", scale, builder.shared("flat", np.array([-1])), name="scale.flat")
