"""A sum of terms as ONNX nodes that ONNX Runtime folds, at load, into one int8 or float weight.

Integer ratios between the scales of the points are found in the numbers, and so are whole factors of groups. Other
scales of points are summed in float and brought to an int8 grid ("re-gridding").
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from ptq.formats import INT8_MAX
from ptq.lowering.builder import Builder
from ptq.lowering.planes import bit_fields, numbers
from ptq.model.graph import Model
from ptq.qtensor import QTensor, Term, index_bits, places_bits
from ptq.scales import LOGARITHMIC, Coded, coded, fits_bfloat16, is_shared

_STORED = ("plane", "rows", "columns", "scale", "zero")
"""What the names of initializers that hold a weight begin with; the others say how to put it together."""


@dataclass(frozen=True)
class Int8Weight:
    """An int8 value `(out, …)` of the graph, its float32 scales and their value; both fold."""

    integers: ir.Value
    scale: ir.Value
    scales: np.ndarray


def int8_weight(builder: Builder, weight: QTensor, shape: Sequence[int]) -> Int8Weight:
    """Nodes for a weight; `shape` is that of the rows in the graph, `(out, …)`."""
    ratios = weight.integer_ratios()
    if ratios is None:
        return _regridded(builder, weight, shape)
    total: ir.Value | None = None
    for number, (term, ratio) in enumerate(zip(weight.terms, ratios, strict=True), 1):
        plane = plane_of(builder, term, shape, number, integer=True)
        rows = None if term.rows is None else _places(builder, term.rows, shape[0], f"rows{number}")
        if total is None and rows is not None:
            total = _zeros(builder, shape, "zeros", integer=True)
        total = plane if total is None else _horner(builder, total, plane, rows, ratio, number)
    if total is None:
        raise AssertionError
    scales = weight.finest_scale() * weight.step
    return Int8Weight(total, stored_scale(builder, scales, "scale"), scales.numpy())


def float_weight(builder: Builder, weight: QTensor, shape: Sequence[int]) -> ir.Value:
    """Nodes for a weight as float32 in the shape of its rows in the graph, `(out, …)`."""
    if weight.fits_int8:
        made = int8_weight(builder, weight, shape)
        dense = builder.cast(made.integers, ir.DataType.FLOAT, "float")
        return builder.call("Mul", dense, column(builder, made.scale, len(shape), "scale.column"), name="dense")
    return _summed(builder, weight, shape)


def regrid(weight: QTensor) -> tuple[Tensor, Tensor]:
    """The int8 grid for a weight without an integer ratio: scales `(out,)`, and what is left of the weight on it."""
    dense = weight.dequantize()
    scale = (dense.abs().amax(1) / INT8_MAX).clamp_min(torch.finfo(torch.float32).tiny)
    scale = torch.where(dense.abs().amax(1) > 0, scale, torch.ones_like(scale))
    return scale, (dense / scale[:, None]).round() * scale[:, None]


def plane_of(builder: Builder, term: Term, shape: Sequence[int], number: int, *, integer: bool) -> ir.Value:
    """A term without the scales of its rows, `(rows, …)`: int8 multiples of its step, or float32."""
    values = term.values.numpy()
    if term.columns is not None:
        total = _spread(builder, term, math.prod(shape[1:]), number, integer=integer)
    elif term.blocks is None and term.zero_point is None:
        return numbers(builder, values.reshape(-1, *shape[1:]), term.format, f"plane{number}", integer=integer)
    else:
        total = centred(builder, term, number, integer=integer)
    if term.blocks is not None:
        factors = group_factors(builder, term, number, integer=integer)
        total = builder.call("Mul", total, wide(builder, factors, term, f"factors{number}"), name=f"scaled{number}")
    if len(shape) == 2:
        return total
    like = builder.constant(f"shape{number}", np.array([len(values), *shape[1:]]))
    return builder.call("Reshape", total, like, name=f"point{number}")


def centred(builder: Builder, term: Term, number: int, *, integer: bool) -> ir.Value:
    """The values of a term less its zero points, `(rows, in)`."""
    total = numbers(builder, term.values.numpy(), term.format, f"plane{number}", integer=integer)
    if term.zero_point is None:
        return total
    zero = numbers(builder, term.zero_point.numpy(), term.format, f"zero{number}", integer=integer)
    return builder.call("Sub", total, wide(builder, zero, term, f"zero{number}"), name=f"centred{number}")


def group_factors(builder: Builder, term: Term, number: int, *, integer: bool) -> ir.Value:
    """The factors of the groups of a term, `(rows, groups)`."""
    if term.blocks is None:
        raise AssertionError
    factors = term.blocks.factors.numpy()
    return numbers(builder, factors, term.blocks.format, f"scale{number}.groups", integer=integer)


def wide(builder: Builder, groups: ir.Value, term: Term, name: str) -> ir.Value:
    """What belongs to groups `(…, groups)`, by column; one group is left to broadcasting."""
    if term.blocks is None or term.groups == 1:
        return groups
    columns, size = term.values.shape[1], term.blocks.size
    index = builder.shared(f"groups.{columns}.{size}", (np.arange(columns) // size).astype(np.int32))
    return builder.call("Gather", groups, index, name=f"{name}.wide", axis=-1)


def _horner(
    builder: Builder, total: ir.Value, plane: ir.Value, rows: ir.Value | None, ratio: int, number: int
) -> ir.Value:
    """`total * ratio + plane` in int8, for some rows or for all."""
    if rows is not None and ratio == 1:  # the first point of these rows
        return builder.call("ScatterND", total, rows, plane, name=f"sum{number}", reduction="add")
    before = total if rows is None else builder.call("GatherND", total, rows, name=f"pick{number}")
    step = builder.shared(f"ratio.{ratio}", np.array(ratio, np.int8))
    shifted = before if ratio == 1 else builder.call("Mul", before, step, name=f"shift{number}")
    if rows is None:
        return builder.call("Add", shifted, plane, name=f"sum{number}")
    added = builder.call("Add", shifted, plane, name=f"add{number}")
    return builder.call("ScatterND", total, rows, added, name=f"sum{number}")


def _zeros(builder: Builder, shape: Sequence[int], name: str, *, integer: bool) -> ir.Value:
    """Zeros that numbers of some rows or columns are put into."""
    zero = builder.shared("zero.int8" if integer else "zero.float", np.zeros(1, np.int8 if integer else np.float32))
    whole = builder.shared(f"shape.{'.'.join(map(str, shape))}", np.array(shape))
    return builder.call("Expand", zero, whole, name=name)


def _places(builder: Builder, places: Tensor, count: int, name: str) -> ir.Value:
    """Indices of rows or columns `(places, 1)` as int64, stored as such or as a bit for each of all `count`.

    What is less is stored. The indices of set bits are the first of TopK, in order; NonZero and Compress do not fold.
    """
    if places_bits(places, count) < len(places) * index_bits(count):
        chosen = np.zeros((count, 1), np.uint8)
        chosen[places.numpy()] = 1
        bits = builder.cast(bit_fields(builder, chosen, f"{name}.bits"), ir.DataType.INT32, f"{name}.chosen")
        most = builder.shared(f"count.{len(places)}", np.array([len(places)]))
        return builder.node("TopK", bits, most, name=f"{name}.indices", outputs=2, axis=0).outputs[1]
    stored = builder.constant(name, places.numpy().astype(f"u{index_bits(count) // 8}")[:, None])
    return builder.cast(stored, ir.DataType.INT64, f"{name}.index")


def _spread(builder: Builder, term: Term, columns: int, number: int, *, integer: bool) -> ir.Value:
    """The values of a term of some columns as `(rows, in)`, zeros in the others; stored by column, as rows scatter."""
    if term.columns is None:
        raise AssertionError
    plane = numbers(builder, term.values.numpy().T, term.format, f"plane{number}", integer=integer)
    places = _places(builder, term.columns, columns, f"columns{number}")
    empty = _zeros(builder, (columns, len(term.values)), f"empty{number}", integer=integer)
    turned = builder.call("ScatterND", empty, places, plane, name=f"columns{number}.spread")
    return builder.call("Transpose", turned, name=f"spread{number}", perm=[1, 0])


def _regridded(builder: Builder, weight: QTensor, shape: Sequence[int]) -> Int8Weight:
    total = _summed(builder, weight, shape)
    scale = regrid(weight)[0]
    grid = builder.constant("scale", scale.numpy())
    divided = builder.call("Div", total, column(builder, grid, len(shape), "steps"), name="steps.of")
    integers = builder.cast(builder.call("Round", divided, name="rounded"), ir.DataType.INT8, "int8")
    return Int8Weight(integers, grid, scale.numpy())


def _summed(builder: Builder, weight: QTensor, shape: Sequence[int]) -> ir.Value:
    """The sum of all terms in float32."""
    total: ir.Value | None = None
    for number, term in enumerate(weight.terms, 1):
        values = plane_of(builder, term, shape, number, integer=False)
        scale = stored_scale(builder, term.scale, f"scale{number}")
        part = builder.call("Mul", values, column(builder, scale, len(shape), f"column{number}"), name=f"term{number}")
        if term.rows is None:
            total = part if total is None else builder.call("Add", total, part, name=f"sum{number}")
        else:
            total = _zeros(builder, shape, "zeros", integer=False) if total is None else total
            rows = _places(builder, term.rows, shape[0], f"rows{number}")
            total = builder.call("ScatterND", total, rows, part, name=f"sum{number}", reduction="add")
    if total is None:
        raise AssertionError
    return total


def column(builder: Builder, scale: ir.Value, rank: int, name: str) -> ir.Value:
    """Scales `(out,)` beside rows of a tensor of that rank, `(out, …)`."""
    along = builder.shared(f"column.{rank}", np.array([-1] + [1] * (rank - 1)))
    return builder.call("Reshape", scale, along, name=name)


def stored_scale(builder: Builder, scale: Tensor, name: str) -> ir.Value:
    """Scales `(out,)` as float32, stored in the narrowest way that loses nothing."""
    if is_shared(scale):
        one = builder.constant(name, scale[:1].numpy())
        return builder.call(
            "Expand", one, builder.shared(f"count.{len(scale)}", np.array([len(scale)])), name=f"{name}.all"
        )
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
