"""One term of a weight as ONNX nodes that ONNX Runtime folds at load: numbers, factors, scales, and their places."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
from torch import Tensor

from ptq.lowering.builder import Builder
from ptq.lowering.planes import bit_column, numbers, stored_shape
from ptq.qtensor import QTensor, Term, index_bits, places_bits
from ptq.scales import LOGARITHMIC, Coded, coded, fits_bfloat16, is_shared


def plane_of(builder: Builder, term: Term, shape: Sequence[int], number: int, *, integer: bool) -> ir.Value:
    """A term without factors and scales, `(rows, …)`: int8 multiples of its step, or float32."""
    values = term.values.numpy()
    if term.columns is not None:
        total = _spread(builder, term, math.prod(shape[1:]), number, integer=integer)
    elif term.zero_point is None:
        return numbers(builder, values.reshape(-1, *shape[1:]), term.format, f"plane{number}", integer=integer)
    else:
        total = centred(builder, term, number, integer=integer)
    return shaped(builder, total, (len(values), *shape[1:]), str(number))


def shaped(builder: Builder, total: ir.Value, shape: Sequence[int], name: str) -> ir.Value:
    """Rows `(rows, in)` in the shape that they have in the graph."""
    if len(shape) == 2:
        return total
    return builder.call("Reshape", total, stored_shape(builder, shape), name=f"point{name}")


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


def wide(builder: Builder, groups: ir.Value, weight: QTensor | Term, name: str) -> ir.Value:
    """What belongs to groups `(…, groups)`, by column; one group is left to broadcasting."""
    terms = weight.terms if isinstance(weight, QTensor) else (weight,)
    term = next((term for term in terms if term.blocks is not None), None)
    if term is None or term.blocks is None or term.groups == 1:
        return groups
    columns, size = term.values.shape[1], term.blocks.size
    index = builder.shared(f"groups.{columns}.{size}", (np.arange(columns) // size).astype(np.int32))
    return builder.call("Gather", groups, index, name=f"{name}.wide", axis=-1)


def places(builder: Builder, places: Tensor, count: int, name: str) -> ir.Value:
    """Indices of rows or columns `(places, 1)` as int64, stored as such or as a bit for each of all `count`.

    What is less is stored. The indices of set bits are the first of TopK, in order; NonZero and Compress do not fold.
    """
    if places_bits(places, count) < len(places) * index_bits(count):
        chosen = np.zeros(count, np.uint8)
        chosen[places.numpy()] = 1
        bits = bit_column(builder, chosen, f"{name}.bits")
        most = builder.shared(f"count.{len(places)}", np.array([len(places)]))
        return builder.node("TopK", bits, most, name=f"{name}.indices", outputs=2, axis=0).outputs[1]
    stored = builder.constant(name, places.numpy().astype(f"u{index_bits(count) // 8}")[:, None])
    return builder.cast(stored, ir.DataType.INT64, f"{name}.index")


def _spread(builder: Builder, term: Term, columns: int, number: int, *, integer: bool) -> ir.Value:
    """The values of a term of some columns as `(rows, in)`, zeros in the others; stored by column, as rows scatter."""
    if term.columns is None:
        raise AssertionError
    plane = numbers(builder, term.values.numpy().T, term.format, f"plane{number}", integer=integer)
    found = places(builder, term.columns, columns, f"columns{number}")
    empty = zeros(builder, (columns, len(term.values)), f"empty{number}", integer=integer)
    turned = builder.call("ScatterND", empty, found, plane, name=f"columns{number}.spread")
    return builder.call("Transpose", turned, name=f"spread{number}", perm=[1, 0])


def zeros(builder: Builder, shape: Sequence[int], name: str, *, integer: bool) -> ir.Value:
    """Zeros that numbers of some rows or columns are put into."""
    zero = builder.shared("zero.int8" if integer else "zero.float", np.zeros(1, np.int8 if integer else np.float32))
    return builder.call("Expand", zero, stored_shape(builder, shape), name=name)


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
