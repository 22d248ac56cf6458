"""Weights for MatMulNBits, as the standard DequantizeLinear that ONNX Runtime makes one of.

It does so only with weights in the layout `(in, out)` and with blocks along `in`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ptq.lowering.builder import Builder
from ptq.lowering.lookup import Rows
from ptq.lowering.planes import native
from ptq.lowering.weights import centred, group_factors, int8_weight, stored_scale
from ptq.qtensor import QTensor, Term


@dataclass(frozen=True)
class BlockWeight:
    """The float image `(in, out)` for a product; and what a lookup takes rows of, where the weight is a table too."""

    image: ir.Value
    rows: Rows | None


def block_weight(builder: Builder, weight: QTensor, *, table: bool) -> BlockWeight:
    """Nodes for a weight; a table is stored by rows, so that they can be taken."""
    if len(weight.terms) > 1:
        return _summed(builder, weight)
    (term,) = weight.terms
    zero = None
    stored = None if table or _is_misread(term) else native(builder, term.values.numpy().T, term.format, "plane1")
    plain = stored is not None
    rows = None
    if stored is not None and term.zero_point is not None:
        zeros = term.zero_point.numpy().T
        zero = native(builder, zeros if term.blocks else zeros.reshape(-1), term.format, "zero1")
    scale = _scale(builder, term, 1.0 if plain else term.format.step)
    if stored is None:
        plane = centred(builder, term, 1, integer=True)
        stored = builder.call("Transpose", plane, name="columns", perm=[1, 0])
        rows = Rows(plane, scale, grouped=term.blocks is not None)
    turned = builder.call("Transpose", scale, name="scale.columns", perm=[1, 0]) if term.blocks else scale
    place = {"axis": 0, "block_size": term.blocks.size} if term.blocks else {"axis": 1}
    inputs = [value for value in (stored, turned, zero) if value is not None]
    return BlockWeight(builder.call("DequantizeLinear", *inputs, name="weight", **place), rows)


def _is_misread(term: Term) -> bool:
    """Whether MatMulNBits computes nonsense: with 2 bits, where the rows are no multiple of 4 (ONNX Runtime 1.32)."""
    return term.format.bits == 2 and len(term.values) % 4 != 0


def _summed(builder: Builder, weight: QTensor) -> BlockWeight:
    """The points of rows, in sum."""
    made = int8_weight(builder, weight, weight.shape)
    turned = builder.call("Transpose", made.integers, name="columns", perm=[1, 0])
    image = builder.call("DequantizeLinear", turned, made.scale, name="weight", axis=1)
    return BlockWeight(image, Rows(made.integers, made.scale))


def _scale(builder: Builder, term: Term, step: float) -> ir.Value:
    """What integers are multiplied by: `(rows,)`, or `(rows, groups)`."""
    own = stored_scale(builder, term.scale * step, "scale1")
    if term.blocks is None:
        return own
    column = builder.call("Reshape", own, builder.shared("column", np.array([-1, 1])), name="scale.column")
    return builder.call("Mul", group_factors(builder, term, 1, integer=False), column, name="scale")
