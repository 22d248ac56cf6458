"""A sum of terms as ONNX nodes that ONNX Runtime folds, at load, into one int8 or float weight.

Integer ratios between the scales of the points are found in the numbers, and so are whole factors of groups. Other
scales of points are summed in float and brought to an int8 grid ("re-gridding").
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor

from ptq.formats import INT8_MAX
from ptq.lowering.builder import Builder
from ptq.lowering.execution import Execution
from ptq.lowering.planes import stored_shape
from ptq.lowering.terms import column, group_factors, places, plane_of, shaped, stored_scale, wide, zeros
from ptq.model.graph import Model
from ptq.qtensor import QTensor

_STORED = ("plane", "rows", "columns", "scale", "zero")
"""What the names of initializers that hold a weight begin with; the others say how to put it together."""

_NOTHING = INT8_MAX * torch.finfo(torch.float32).tiny
"""Rows without a weight of this size are zeros on their int8 grid: its scale would be no normal number."""


@dataclass(frozen=True)
class Int8Weight:
    """An int8 value `(out, …)` of the graph, its float32 scales and their value; both fold."""

    integers: ir.Value
    scale: ir.Value
    scales: np.ndarray


def int8_weight(builder: Builder, weight: QTensor, shape: Sequence[int]) -> Int8Weight:
    """Nodes for a weight; `shape` is that of the rows in the graph, `(out, …)`."""
    if weight.integer_ratios() is None:
        return _regridded(builder, weight, shape)
    made = points(builder, weight, shape, integer=True)
    total = made.integers
    if made.factors is not None:
        total = builder.call("Mul", total, wide(builder, made.factors, weight, "factors"), name="scaled")
        total = shaped(builder, total, shape, "whole")
    return Int8Weight(total, made.scale, (weight.finest_scale() * weight.step).numpy())


@dataclass(frozen=True)
class Points:
    """The points of rows in sum: an int8 value, the float32 scales of the rows and the factors of their groups.

    Integers are `(out, in)` where there are factors `(out, groups)`, else in the shape that was asked for.
    """

    integers: ir.Value
    scale: ir.Value
    factors: ir.Value | None = None


def points(builder: Builder, weight: QTensor, shape: Sequence[int], *, integer: bool) -> Points:
    """Nodes for points with integer ratios; factors are int8 if they are to be `integer`, else float32."""
    ratios = weight.integer_ratios()
    if ratios is None:
        raise AssertionError
    grouped = weight.factors is not None
    here = weight.shape if grouped else shape
    covered = [
        None if term.rows is None else places(builder, term.rows, shape[0], f"rows{number}")
        for number, term in enumerate(weight.terms, 1)
    ]
    total: ir.Value | None = None
    for number, (term, ratio, rows) in enumerate(zip(weight.terms, ratios, covered, strict=True), 1):
        plane = plane_of(builder, term, here, number, integer=True)
        if total is None and rows is not None:
            total = zeros(builder, here, "zeros", integer=True)
        total = plane if total is None else _horner(builder, total, plane, rows, ratio, number)
    if total is None:
        raise AssertionError
    scale = _scales(builder, weight, covered, weight.step if integer else _digit_step(weight))
    return Points(total, scale, _factors(builder, weight, covered, integer=integer) if grouped else None)


def _digit_step(weight: QTensor) -> float:
    return min(term.format.step for term in weight.terms)


def _scales(builder: Builder, weight: QTensor, covered: Sequence[ir.Value | None], step: float) -> ir.Value:
    """The finest scale of each row times the step, `(out,)`."""
    stored = weight.scales
    if len(stored) == 1:
        return stored_scale(builder, stored[0] * step, "scale")
    total: ir.Value | None = None
    for number, (scale, rows) in enumerate(zip(stored, covered, strict=True), 1):
        part = stored_scale(builder, scale * step, f"scale{number}")
        total = _put(builder, total, part, rows, weight.shape[:1], f"scales{number}")
    return _given(total)


def _factors(builder: Builder, weight: QTensor, covered: Sequence[ir.Value | None], *, integer: bool) -> ir.Value:
    """The factors of the groups of all rows, `(out, groups)`: those of the first points, 1 where these have none."""
    groups = max(term.groups for term in weight.terms)
    total: ir.Value | None = None
    for number, (term, rows, opens) in enumerate(zip(weight.terms, covered, weight.opening, strict=True), 1):
        if not opens:
            continue
        if term.blocks is not None:
            part = group_factors(builder, term, number, integer=integer)
        else:
            one = builder.shared("one.int8" if integer else "one.float", np.ones(1, np.int8 if integer else np.float32))
            part = builder.call("Expand", one, stored_shape(builder, (len(term.values), groups)), name=f"ones{number}")
        total = _put(builder, total, part, rows, (weight.shape[0], groups), f"factors{number}", integer=integer)
    return _given(total)


def _put(
    builder: Builder,
    total: ir.Value | None,
    part: ir.Value,
    rows: ir.Value | None,
    shape: Sequence[int],
    name: str,
    *,
    integer: bool = False,
) -> ir.Value:
    """A tensor with other numbers in some rows, or in all."""
    if rows is None:
        return part
    if total is None:
        total = zeros(builder, shape, f"{name}.zeros", integer=integer)
    return builder.call("ScatterND", total, rows, part, name=name)


def _given(value: ir.Value | None) -> ir.Value:
    if value is None:
        raise AssertionError
    return value


def float_weight(builder: Builder, weight: QTensor, shape: Sequence[int]) -> ir.Value:
    """Nodes for a weight as float32 in the shape of its rows in the graph, `(out, …)`."""
    if weight.fits_int8:
        made = int8_weight(builder, weight, shape)
        dense = builder.cast(made.integers, ir.DataType.FLOAT, "float")
        return builder.call("Mul", dense, column(builder, made.scale, len(shape), "scale.column"), name="dense")
    if len(weight.terms) == 1 or not weight.digits_fit_int8:
        return _summed(builder, weight, shape)
    found = points(builder, weight, weight.shape, integer=False)
    total = builder.cast(found.integers, ir.DataType.FLOAT, "float")
    if found.factors is not None:
        total = builder.call("Mul", total, wide(builder, found.factors, weight, "factors"), name="scaled")
    total = builder.call("Mul", total, column(builder, found.scale, 2, "scale.column"), name="dense")
    return shaped(builder, total, shape, "whole")


def regrid(weight: QTensor) -> tuple[Tensor, Tensor]:
    """The int8 grid for a weight without an integer ratio: scales `(out,)`, and what is left of the weight on it."""
    dense = weight.dequantize()
    largest = dense.abs().amax(1)
    scale = torch.where(largest < _NOTHING, torch.full_like(largest, INT8_MAX), largest) / INT8_MAX
    return scale, (dense / scale[:, None]).round() * scale[:, None]


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


def _regridded(builder: Builder, weight: QTensor, shape: Sequence[int]) -> Int8Weight:
    """The grid of `regrid` follows from the sum, so nothing of it is stored."""
    total = _summed(builder, weight, shape)
    axes = builder.shared(f"axes.{len(shape)}", np.arange(1, len(shape)))
    largest = builder.call("ReduceMax", builder.call("Abs", total, name="magnitude"), axes, name="largest")
    least = builder.shared("nothing.float", np.array(_NOTHING, np.float32))
    most = builder.shared("most.float", np.array(INT8_MAX, np.float32))
    nothing = builder.call("Less", largest, least, name="nothing")
    grid = builder.call("Div", builder.call("Where", nothing, most, largest, name="reach"), most, name="steps")
    divided = builder.call("Div", total, grid, name="steps.of")
    integers = builder.cast(builder.call("Round", divided, name="rounded"), ir.DataType.INT8, "int8")
    scale = builder.call("Reshape", grid, builder.shared("flat", np.array([-1])), name="scale")
    return Int8Weight(integers, scale, regrid(weight)[0].numpy())


def _summed(builder: Builder, weight: QTensor, shape: Sequence[int]) -> ir.Value:
    """The sum of all terms in float32."""
    total: ir.Value | None = None
    for number, term in enumerate(weight.terms, 1):
        values = plane_of(builder, term, weight.shape if term.blocks else shape, number, integer=False)
        if term.blocks is not None:
            factors = wide(builder, group_factors(builder, term, number, integer=False), term, f"factors{number}")
            scaled = builder.call("Mul", values, factors, name=f"scaled{number}")
            values = shaped(builder, scaled, (len(term.values), *shape[1:]), str(number))
        scale = stored_scale(builder, term.scale, f"scale{number}")
        part = builder.call("Mul", values, column(builder, scale, len(shape), f"column{number}"), name=f"term{number}")
        if term.rows is None:
            total = part if total is None else builder.call("Add", total, part, name=f"sum{number}")
        else:
            total = zeros(builder, shape, "zeros", integer=False) if total is None else total
            rows = places(builder, term.rows, shape[0], f"rows{number}")
            total = builder.call("ScatterND", total, rows, part, name=f"sum{number}", reduction="add")
    if total is None:
        raise AssertionError
    return total


def stored_weight(weight: QTensor, execution: Execution) -> Tensor:
    """The weight `(out, in)` that the written file computes with."""
    in_int8 = execution in (Execution.STATIC, Execution.DYNAMIC)
    return regrid(weight)[1] if in_int8 and weight.integer_ratios() is None else weight.dequantize()


def stored_bytes(model: Model, site: str) -> int:
    """What the planes, scales and row indices of a site take in the file."""
    parts = ((name.rpartition("/"), value) for name, value in model.graph.graph.initializers.items())
    own = (value for (owner, _, part), value in parts if owner == site and part.startswith(_STORED))
    return sum(value.const_value.nbytes for value in own if value.const_value is not None)
