"""A sum of terms as ONNX nodes that ONNX Runtime folds, at load, into one int8 weight.

Planes are stored in the width of their format; integer ratios between the scales of the points are found in the
numbers. Other scales are summed in float and brought to an int8 grid ("re-gridding").
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from ptq import formats
from ptq.lowering.builder import Builder
from ptq.model.graph import Model
from ptq.qtensor import QTensor, Term, index_bits, rows_bits
from ptq.scales import LOGARITHMIC, Coded, coded, fits_bfloat16

INT8_MAX = 127
_SPLIT_BITS = 3
"""Three bits have no ONNX type: they are stored as two bits and one."""

_INT2 = formats.get("int2")
"""The one type here that came to ONNX later than the opset files are written in."""


_STORED = ("plane", "rows", "scale")
"""What the names of initializers that hold a weight begin with; the others say how to put it together."""


@dataclass(frozen=True)
class Int8Weight:
    """An int8 value `(out, …)` of the graph, its float32 scales and their value; both fold."""

    integers: ir.Value
    scale: ir.Value
    scales: np.ndarray


def int8_weight(builder: Builder, weight: QTensor, shape: tuple[int, ...]) -> Int8Weight:
    """Nodes for a weight; `shape` is that of the rows in the graph, `(out, …)`."""
    ratios = weight.integer_ratios()
    if ratios is None:
        return _regridded(builder, weight, shape)
    total: ir.Value | None = None
    for number, (term, ratio) in enumerate(zip(weight.terms, ratios, strict=True), 1):
        plane = _plane(builder, term, shape, number)
        rows = None if term.rows is None else _rows(builder, term.rows, shape[0], number)
        total = plane if total is None else _horner(builder, total, plane, rows, ratio, number)
    if total is None:
        raise AssertionError
    scale = _scale(builder, weight.finest_scale(), "scale")
    return Int8Weight(total, scale, weight.finest_scale().numpy())


def regrid(weight: QTensor) -> tuple[Tensor, Tensor]:
    """The int8 grid for a weight without an integer ratio: scales `(out,)`, and what is left of the weight on it."""
    dense = weight.dequantize()
    scale = (dense.abs().amax(1) / INT8_MAX).clamp_min(torch.finfo(torch.float32).tiny)
    scale = torch.where(dense.abs().amax(1) > 0, scale, torch.ones_like(scale))
    return scale, (dense / scale[:, None]).round() * scale[:, None]


def _horner(
    builder: Builder, total: ir.Value, plane: ir.Value, rows: ir.Value | None, ratio: int, number: int
) -> ir.Value:
    """`total * ratio + plane` in int8, for some rows or for all."""
    step = builder.shared(f"ratio.{ratio}", np.array(ratio, np.int8))
    if rows is None:
        return builder.call("Add", builder.call("Mul", total, step, name=f"shift{number}"), plane, name=f"sum{number}")
    picked = builder.call("GatherND", total, rows, name=f"pick{number}")
    shifted = builder.call("Mul", picked, step, name=f"shift{number}")
    added = builder.call("Add", shifted, plane, name=f"add{number}")
    return builder.call("ScatterND", total, rows, added, name=f"sum{number}")


def _rows(builder: Builder, rows: Tensor, out: int, number: int) -> ir.Value:
    """Row indices `(rows, 1)` as int64, stored as such or as a bit for each of the `out` rows, whichever is less.

    The rows of set bits are the first of TopK, in order; NonZero and Compress do not fold.
    """
    if rows_bits(rows, out) < len(rows) * index_bits(out):
        chosen = np.zeros((out, 1), np.uint8)
        chosen[rows.numpy()] = 1
        bits = builder.cast(_fields(builder, chosen, 1, 0, f"{number}.rows"), ir.DataType.INT32, f"chosen{number}")
        count = builder.constant(f"count{number}", np.array([len(rows)]))
        return builder.node("TopK", bits, count, name=f"rows{number}", outputs=2, axis=0).outputs[1]
    stored = builder.constant(f"rows{number}", rows.numpy().astype(f"u{index_bits(out) // 8}")[:, None])
    return builder.cast(stored, ir.DataType.INT64, f"index{number}")


def _plane(builder: Builder, term: Term, shape: tuple[int, ...], number: int) -> ir.Value:
    """The values of a term as int8 `(rows, …)`."""
    values = term.values.numpy().reshape(len(term.values), *shape[1:])
    if term.format.bits == _SPLIT_BITS:
        high = np.floor_divide(values, 2)
        doubled = builder.call("Add", *[_two_bits(builder, high, f"{number}.high")] * 2, name=f"double{number}")
        low = _fields(builder, values - 2 * high, 1, 0, f"{number}.low")
        return builder.call("Add", doubled, low, name=f"point{number}")
    if term.format is _INT2:
        return _two_bits(builder, values, str(number))
    stored = builder.constant(f"plane{number}", values, None if term.format.onnx == "INT8" else term.format.onnx)
    return stored if term.format.onnx == "INT8" else builder.cast(stored, ir.DataType.INT8, f"point{number}")


def _two_bits(builder: Builder, values: np.ndarray, name: str) -> ir.Value:
    """Integers from -2 to 1 as int8: stored as INT2 where the opset has it, else packed in bytes."""
    if _INT2.least_opset is not None and builder.opset >= _INT2.least_opset:
        return builder.cast(builder.constant(f"plane{name}", values, "INT2"), ir.DataType.INT8, f"point{name}")
    return _fields(builder, values, _INT2.bits, -2, name)


def _fields(builder: Builder, values: np.ndarray, bits: int, least: int, name: str) -> ir.Value:
    """Integers from `least` up as int8, packed in bytes, the first lowest; a table says what a byte holds."""
    shifts = np.arange(0, 8, bits)
    each = len(shifts)
    codes = np.pad((values - least).astype(np.uint8).reshape(-1), (0, -values.size % each)).reshape(-1, each)
    packed = builder.constant(f"plane{name}", np.bitwise_or.reduce(codes << shifts, axis=1).astype(np.uint8))
    held = (np.arange(256)[:, None] >> shifts & ((1 << bits) - 1)) + least
    table = builder.shared(f"fields.{bits}", held.astype(np.int8))
    run = builder.call("Gather", table, builder.cast(packed, ir.DataType.INT32, f"bytes{name}"), name=f"fields{name}")
    if codes.size > values.size:
        flat = builder.call("Reshape", run, builder.shared("flat", np.array([-1])), name=f"run{name}")
        begin, end = builder.shared("begin", np.array([0])), builder.constant(f"end{name}", np.array([values.size]))
        run = builder.call("Slice", flat, begin, end, name=f"exact{name}")
    return builder.call("Reshape", run, builder.constant(f"shape{name}", np.array(values.shape)), name=f"point{name}")


def _regridded(builder: Builder, weight: QTensor, shape: tuple[int, ...]) -> Int8Weight:
    total: ir.Value | None = None
    along = (1,) * (len(shape) - 1)
    for k, term in enumerate(weight.terms):
        number = k + 1
        values = builder.cast(_plane(builder, term, shape, number), ir.DataType.FLOAT, f"float{number}")
        column = _scale(builder, term.scale.reshape(-1, *along), f"scale{number}")
        part = builder.call("Mul", values, column, name=f"term{number}")
        if total is None:
            total = part
        elif term.rows is None:
            total = builder.call("Add", total, part, name=f"sum{number}")
        else:
            rows = _rows(builder, term.rows, shape[0], number)
            total = builder.call("ScatterND", total, rows, part, name=f"sum{number}", reduction="add")
    if total is None:
        raise AssertionError
    scale = regrid(weight)[0]
    grid = builder.constant("scale", scale.numpy())
    wide = builder.constant("wide", np.array([-1, *along]))
    divided = builder.call("Div", total, builder.call("Reshape", grid, wide, name="steps"), name="steps.of")
    integers = builder.cast(builder.call("Round", divided, name="rounded"), ir.DataType.INT8, "int8")
    return Int8Weight(integers, grid, scale.numpy())


def _scale(builder: Builder, scale: Tensor, name: str) -> ir.Value:
    """Scales as float32, stored in the narrowest way that loses nothing."""
    short = coded(scale)
    if short is not None:
        return _decoded(builder, short, name)
    if not fits_bfloat16(scale):
        return builder.constant(name, scale.numpy())
    return builder.cast(builder.constant(f"{name}.bf16", scale.numpy(), "BFLOAT16"), ir.DataType.FLOAT, name)


def _decoded(builder: Builder, short: Coded, name: str) -> ir.Value:
    """Codes looked up in a table that the whole graph shares, times the unit of this weight."""
    table = builder.shared(LOGARITHMIC.name, np.array(LOGARITHMIC.values, np.float32))
    codes = builder.cast(builder.constant(f"{name}.codes", short.codes.numpy()), ir.DataType.INT32, f"{name}.index")
    relative = builder.call("Gather", table, codes, name=f"{name}.relative")
    return builder.call("Mul", relative, builder.constant(f"{name}.unit", np.array(short.unit, np.float32)), name=name)


def stored_weight(weight: QTensor) -> Tensor:
    """The weight `(out, in)` that the written file computes with."""
    return weight.dequantize() if weight.integer_ratios() is not None else regrid(weight)[1]


def stored_bytes(model: Model, site: str) -> int:
    """What the planes, scales and row indices of a site take in the file."""
    parts = ((name.rpartition("/"), value) for name, value in model.graph.graph.initializers.items())
    own = (value for (owner, _, part), value in parts if owner == site and part.startswith(_STORED))
    return sum(value.const_value.nbytes for value in own if value.const_value is not None)
