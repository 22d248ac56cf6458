"""Numbers of a format as initializers, in the width of the format, and the nodes that bring them back.

All of it folds when ONNX Runtime loads the file. What ONNX has a type for is stored in it and cast. Other widths are
split into fields of four, two and one bits; other numbers are codes, looked up in a table.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from ptq.chunks import chunks
from ptq.formats import Format
from ptq.formats.integer import IntFormat
from ptq.lowering.builder import STORED, Builder
from ptq.vectors import VectorFormat

_WIDE = {"INT8", "UINT8"}
"""Types that numpy has."""


def numbers(builder: Builder, values: np.ndarray, fmt: Format, name: str, *, integer: bool) -> ir.Value:
    """Numbers of a format, `values` of any shape: as int8 multiples of its step, or as float32."""
    dtype = ir.DataType.INT8 if integer else ir.DataType.FLOAT
    if isinstance(fmt, IntFormat):
        whole = _integers(builder, _bytes(values, fmt), fmt, name)
        return whole if whole.dtype == dtype else builder.cast(whole, dtype, f"{name}.numbers")
    if fmt.onnx in STORED and not integer:
        return builder.cast(builder.constant(name, values, fmt.onnx), dtype, f"{name}.numbers")
    codes = codes_of(values, fmt)
    places = _places(builder, codes, fmt.bits * fmt.span, name)
    table = stored_table(builder, _table(fmt, integer=integer), fmt, f"table.{fmt.name}.{dtype.name.lower()}", name)
    found = builder.call("Gather", table, places, name=f"{name}.numbers")
    return found if fmt.span == 1 else _joined(builder, found, values.shape, fmt.span, name)


def native(builder: Builder, values: np.ndarray, fmt: Format, name: str) -> ir.Value | None:
    """Integers as an initializer in the type of the format, where the opset has one that kernels read as it is."""
    if not isinstance(fmt, IntFormat) or fmt.onnx is None or builder.opset < (fmt.least_opset or 0):
        return None
    return builder.constant(name, _bytes(values, fmt), fmt.onnx)


def _bytes(values: np.ndarray, fmt: IntFormat) -> NDArray[Any]:
    """Integers in a byte each, which is as wide as they get."""
    return values.astype(np.int8 if fmt.signed else np.uint8, copy=False)


def codes_of(values: np.ndarray, fmt: Format) -> NDArray[Any]:
    """What is stored for numbers of a format, from 0 up; of vectors `(rows, vectors)`.

    They are of the narrowest type that has room for their number, and for what is less by that.
    """
    kind = np.min_scalar_type(-(2 << fmt.bits * fmt.span))
    parts = (values[at] for at in chunks(len(values), values[:1].size))
    return np.concatenate([_codes(part, fmt).astype(kind) for part in parts])


def _codes(values: np.ndarray, fmt: Format) -> NDArray[np.int64]:
    if isinstance(fmt, VectorFormat):
        return _vector_codes(values.reshape(len(values), -1), fmt)
    # numbers that only float64 holds have become the nearest of float32
    order = np.searchsorted(np.array(fmt.values, np.float32), values.astype(np.float32))
    codes: NDArray[np.int64] = np.array(fmt.codes)[order] % (1 << fmt.bits)
    return codes


def _vector_codes(values: np.ndarray, fmt: VectorFormat) -> NDArray[np.int64]:
    """Of numbers `(rows, in)`; what is no whole vector at the end of a row is the beginning of the first like it."""
    whole = values.shape[1] - values.shape[1] % fmt.span
    parts = []
    for part, size in ((values[:, :whole], fmt.span), (values[:, whole:], values.shape[1] - whole)):
        if part.size:
            known, first = np.unique(_keys(np.array(fmt.book)[:, :size]), return_index=True)
            parts.append(first[np.searchsorted(known, _keys(part.astype(np.int64).reshape(len(part), -1, size)))])
    return np.concatenate(parts, axis=1)


def _keys(vectors: NDArray[np.int64]) -> NDArray[np.int64]:
    """Vectors `(…, span)` of int8 as a number each."""
    keys: NDArray[np.int64] = (vectors + 128) @ (256 ** np.arange(vectors.shape[-1]))
    return keys


def _joined(builder: Builder, vectors: ir.Value, shape: tuple[int, ...], span: int, name: str) -> ir.Value:
    """Vectors `(rows, vectors, span)` as rows in a shape, without what the last of a row has to spare."""
    columns = math.prod(shape[1:])
    if columns % span:
        flat = builder.call("Reshape", vectors, builder.shared("flat.rows", np.array([0, -1])), name=f"{name}.joined")
        ends = (builder.shared(f"count.{end}", np.array([end])) for end in (columns, 1))
        vectors = builder.call("Slice", flat, builder.shared("begin", np.array([0])), *ends, name=f"{name}.exact")
    return builder.call("Reshape", vectors, stored_shape(builder, shape), name=f"{name}.whole")


def stored_table(builder: Builder, table: np.ndarray, fmt: Format, shared: str, name: str) -> ir.Value:
    """A table of a format, which all tensors have in common unless it is one tensor's own; `name` is that tensor's."""
    return builder.constant(f"{name}.table", table) if fmt.own else builder.shared(shared, table)


def _table(fmt: Format, *, integer: bool) -> NDArray[Any]:
    """What each code stands for; 0 where it is no number. Negative places count from the end, as Gather does."""
    if isinstance(fmt, VectorFormat):
        return np.array(fmt.book, np.int8 if integer else np.float32)
    table = np.zeros(1 << fmt.bits)
    table[np.array(fmt.codes)] = np.array(fmt.values) / (fmt.step if integer else 1.0)
    return table.astype(np.int8 if integer else np.float32)


def _integers(builder: Builder, values: np.ndarray, fmt: IntFormat, name: str) -> ir.Value:
    """Integers as int8, or uint8 where they are above what that holds."""
    if fmt.onnx in _WIDE:
        return builder.constant(name, values, fmt.onnx)
    if not fmt.signed:
        stored = native(builder, values, fmt, name)
        if stored is None:
            return _fields(builder, values, fmt.bits, 0, name)
        return builder.cast(stored, ir.DataType.INT8, f"{name}.int8")
    return _signed(builder, values, fmt.bits, name)


def _places(builder: Builder, codes: NDArray[Any], bits: int, name: str) -> ir.Value:
    """Codes of so many bits as int32, the upper half negative: they count from the end of a table."""
    half = 1 << (bits - 1)
    signed, low = np.where(codes < half, codes, codes - 2 * half), max(0, bits - 8)
    high = builder.cast(
        _signed(builder, signed >> low, bits - low, f"{name}.high" if low else name),
        ir.DataType.INT32,
        f"{name}.places",
    )
    if not low:
        return high
    fields = _fields(builder, codes & ((1 << low) - 1), low, 0, f"{name}.low")
    shift = builder.shared(f"ratio.{1 << low}.int32", np.array(1 << low, np.int32))
    shifted = builder.call("Mul", high, shift, name=f"{name}.shifted")
    return builder.call("Add", shifted, builder.cast(fields, ir.DataType.INT32, f"{name}.fields"), name=f"{name}.codes")


def _signed(builder: Builder, values: np.ndarray, bits: int, name: str) -> ir.Value:
    """Two's complement integers of so many bits as int8: a part that is stored as such, and fields below it."""
    if bits == 8:
        return builder.constant(name, values, "INT8")
    if bits == 4:
        return builder.cast(builder.constant(name, values, "INT4"), ir.DataType.INT8, f"{name}.int8")
    if bits == 2:
        if builder.opset >= STORED["INT2"].least_opset:
            return builder.cast(builder.constant(name, values, "INT2"), ir.DataType.INT8, f"{name}.int8")
        return _fields(builder, values, bits, -2, name)
    if bits == 1:
        return _fields(builder, values, bits, -1, name)
    low = 1 if bits % 2 else 2
    high = _signed(builder, values >> low, bits - low, f"{name}.high")
    shift = builder.shared(f"ratio.{1 << low}", np.array(1 << low, np.int8))
    shifted = builder.call("Mul", high, shift, name=f"{name}.shifted")
    return builder.call(
        "Add", shifted, _fields(builder, values & ((1 << low) - 1), low, 0, f"{name}.low"), name=f"{name}.int8"
    )


def _fields(builder: Builder, values: np.ndarray, bits: int, least: int, name: str) -> ir.Value:
    """Integers from `least` up as int8, packed in bytes, the first lowest; a table says what a byte holds."""
    packed = builder.constant(name, packed_bytes(values.reshape(1, -1) - least, bits)[0])
    places = builder.cast(packed, ir.DataType.INT32, f"{name}.bytes")
    run = builder.call("Gather", field_table(builder, bits, least), places, name=f"{name}.fields")
    if values.size % (8 // bits):
        flat = builder.call("Reshape", run, builder.shared("flat", np.array([-1])), name=f"{name}.run")
        begin = builder.shared("begin", np.array([0]))
        end = builder.shared(f"count.{values.size}", np.array([values.size]))
        run = builder.call("Slice", flat, begin, end, name=f"{name}.exact")
    return builder.call("Reshape", run, stored_shape(builder, values.shape), name=f"{name}.int8")


def stored_shape(builder: Builder, shape: Sequence[int]) -> ir.Value:
    """A shape, once for all who need it."""
    return builder.shared(f"shape.{'.'.join(map(str, shape))}", np.array(shape))


def bit_column(builder: Builder, bits: np.ndarray, name: str) -> ir.Value:
    """Bits `(n,)` as int32 `(n or a few more, 1)`, zeros at the end; packed in bytes."""
    packed = builder.constant(name, packed_bytes(bits[None], 1)[0])
    places = builder.cast(packed, ir.DataType.INT32, f"{name}.bytes")
    table = builder.shared("fields.1.int32", _held(1).astype(np.int32))
    column = builder.shared("column.2", np.array([-1, 1]))
    return builder.call(
        "Reshape", builder.call("Gather", table, places, name=f"{name}.fields"), column, name=f"{name}.bits"
    )


def packed_bytes(codes: np.ndarray, bits: int) -> NDArray[np.uint8]:
    """Codes `(rows, n)` from 0 up as bytes `(rows, ceil(n bits / 8))`, the first code lowest."""
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    rows = np.pad(codes.astype(np.uint8, copy=False), ((0, 0), (0, -codes.shape[1] % len(shifts))))
    fields = rows.reshape(len(rows), -1, len(shifts))
    packed: NDArray[np.uint8] = np.bitwise_or.reduce(np.left_shift(fields, shifts, out=fields), axis=2)
    return packed


def field_table(builder: Builder, bits: int, least: int) -> ir.Value:
    """What every byte holds as fields of so many bits, `(256, fields)` int8."""
    held = _held(bits) + least
    return builder.shared(f"fields.{bits}.{least}" if least else f"fields.{bits}", held.astype(np.int8))


def _held(bits: int) -> NDArray[np.int64]:
    """The fields of so many bits in every byte, `(256, fields)`, the first lowest."""
    fields: NDArray[np.int64] = np.arange(256)[:, None] >> np.arange(0, 8, bits) & ((1 << bits) - 1)
    return fields


def byte_table(fmt: Format, bits: int) -> NDArray[np.float32]:
    """What every byte holds as codes of so many bits: float32 numbers of the format, `(256, codes)` or `(256,)`.

    Of vectors there is one code in a byte, `(vectors, span)`.
    """
    if fmt.span > 1:
        return _table(fmt, integer=False)
    table = np.zeros(1 << bits, np.float32)
    table[: 1 << fmt.bits] = _table(fmt, integer=False)
    held: NDArray[np.float32] = table[_held(bits)] if bits < 8 else table
    return held
