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

from ptq.lowering.builder import Builder
from ptq.model.graph import Model
from ptq.qtensor import QTensor, Term
from ptq.scales import LOGARITHMIC, Coded, coded, fits_bfloat16

INT8_MAX = 127
_SPLIT_BITS = 3
"""Three bits have no ONNX type: they are stored as a plane of INT2 and one of single bits."""


@dataclass(frozen=True)
class Int8Weight:
    """An int8 value `(out, …)` of the graph, its float32 scales and their value; both fold."""

    integers: ir.Value
    scale: ir.Value
    scales: np.ndarray


def int8_weight(builder: Builder, weight: QTensor, shape: tuple[int, ...]) -> Int8Weight:
    """Nodes for a weight; `shape` is that of the rows in the graph, `(out, …)`."""
    ratio = weight.integer_ratio()
    if ratio is None:
        return _regridded(builder, weight, shape)
    total: ir.Value | None = None
    for k, term in enumerate(weight.terms):
        plane = _plane(builder, term, shape, k + 1)
        total = plane if total is None else _horner(builder, total, plane, term, ratio, k + 1)
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


def _horner(builder: Builder, total: ir.Value, plane: ir.Value, term: Term, ratio: int, number: int) -> ir.Value:
    """`total * ratio + plane` for the rows of the term, in int8."""
    step = builder.constant(f"ratio{number}", np.array(ratio, np.int8))
    if term.rows is None:
        return builder.call("Add", builder.call("Mul", total, step, name=f"shift{number}"), plane, name=f"sum{number}")
    rows = _rows(builder, term.rows, number)
    picked = builder.call("GatherND", total, rows, name=f"pick{number}")
    shifted = builder.call("Mul", picked, step, name=f"shift{number}")
    added = builder.call("Add", shifted, plane, name=f"add{number}")
    return builder.call("ScatterND", total, rows, added, name=f"sum{number}")


def _rows(builder: Builder, rows: Tensor, number: int) -> ir.Value:
    """Row indices `(rows, 1)` as int64, stored in as few bytes as they fit."""
    dtype = next(t for t in (np.uint8, np.uint16, np.uint32) if int(rows.max()) <= np.iinfo(t).max)
    stored = builder.constant(f"rows{number}", rows.numpy().astype(dtype)[:, None])
    return builder.cast(stored, ir.DataType.INT64, f"index{number}")


def _plane(builder: Builder, term: Term, shape: tuple[int, ...], number: int) -> ir.Value:
    """The values of a term as int8 `(rows, …)`."""
    values = term.values.numpy().reshape(len(term.values), *shape[1:])
    if term.format.bits == _SPLIT_BITS:
        return _split_plane(builder, values, number)
    stored = builder.constant(f"plane{number}", values, None if term.format.onnx == "INT8" else term.format.onnx)
    return stored if term.format.onnx == "INT8" else builder.cast(stored, ir.DataType.INT8, f"point{number}")


def _split_plane(builder: Builder, values: np.ndarray, number: int) -> ir.Value:
    """Three bits as `2 a + b`: `a` in INT2, the bits `b` packed, eight a byte, the lowest first."""
    high = np.floor_divide(values, 2)
    packed = np.packbits((values - 2 * high).astype(np.uint8).reshape(-1), bitorder="little")[:, None]
    upper = builder.cast(builder.constant(f"plane{number}.high", high, "INT2"), ir.DataType.INT8, f"high{number}")
    shifts = builder.constant(f"shifts{number}", np.arange(8, dtype=np.uint8)[None])
    bits = builder.call(
        "BitShift", builder.constant(f"plane{number}.low", packed), shifts, name=f"bits{number}", direction="RIGHT"
    )
    lowest = builder.call(
        "BitwiseAnd", bits, builder.constant(f"one{number}", np.array(1, np.uint8)), name=f"bit{number}"
    )
    flat = builder.call("Reshape", lowest, builder.constant(f"flat{number}", np.array([-1])), name=f"run{number}")
    begin, end = (builder.constant(f"{n}{number}", np.array([v])) for n, v in (("begin", 0), ("end", values.size)))
    exact = builder.call("Slice", flat, begin, end, name=f"exact{number}")
    shaped = builder.call(
        "Reshape", exact, builder.constant(f"shape{number}", np.array(values.shape)), name=f"low.u8{number}"
    )
    lower = builder.cast(shaped, ir.DataType.INT8, f"low{number}")
    doubled = builder.call("Add", upper, upper, name=f"double{number}")
    return builder.call("Add", doubled, lower, name=f"point{number}")


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
            rows = _rows(builder, term.rows, number)
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
    return weight.dequantize() if weight.integer_ratio() is not None else regrid(weight)[1]


def stored_bytes(model: Model, site: str) -> int:
    """What the planes, scales and row indices of a site take in the file."""
    own = (value for name, value in model.graph.graph.initializers.items() if name.rpartition("/")[0] == site)
    return sum(value.const_value.nbytes for value in own if value.const_value is not None)
