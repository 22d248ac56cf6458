"""What a file of ONNX says of others, found without reading the weights that it holds."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_FIXED: Final = {_FIXED64: 8, _FIXED32: 4}

_MESSAGES: Final = {
    "model": {7: "graph", 25: "function"},
    "graph": {1: "node", 5: "tensor"},
    "function": {7: "node"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph"},
    "tensor": {13: "entry"},
}
"""The messages inside messages that lead to external data, by the numbers of their fields (onnx.proto3)."""

_KEY, _VALUE = 1, 2
_GRAPH, _NODE, _TENSOR = 7, 1, 5
_INPUT, _OP = 1, 4
_DIMS, _TENSOR_NAME = 1, 8

_DECODING: Final = (b"DequantizeLinear", b"Cast")


def data_files(path: Path) -> frozenset[Path]:
    """The files in which a model has weights besides its own.

    Raises:
        ValueError: it is no file of protobuf.

    """
    with path.open("rb") as stream:
        entries = [_entry(stream, *span) for span in _entries(stream, "model", 0, path.stat().st_size)]
    return frozenset(path.parent / value.decode() for key, value in entries if key == b"location")


def decoded_numbers(path: Path) -> int:
    """How many numbers DequantizeLinear and Cast make of weights of a model; subgraphs left out.

    Raises:
        ValueError: it is no file of protobuf.

    """
    sizes, decoded = dict[bytes, int](), set[bytes]()
    with path.open("rb") as stream:
        graphs = (span for field, *span in _fields(stream, 0, path.stat().st_size) if field == _GRAPH)
        parts = [part for span in graphs for part in _fields(stream, *span)]
        for kind, begin, stop in parts:
            fields = [*_fields(stream, begin, stop)] if kind in (_NODE, _TENSOR) else []
            if kind == _TENSOR:
                name = b"".join(_read(stream, *span) for field, *span in fields if field == _TENSOR_NAME)
                dims = (each for field, *span in fields if field == _DIMS for each in _varints(_read(stream, *span)))
                sizes[name] = math.prod(dims)
            elif any(field == _OP and _read(stream, *span) in _DECODING for field, *span in fields):
                decoded.update(_read(stream, *span) for field, *span in fields[:1] if field == _INPUT)
    return sum(sizes.get(name, 0) for name in decoded)


def _varints(content: bytes) -> Iterator[int]:
    stream = io.BytesIO(content)
    while stream.tell() < len(content):
        yield _varint(stream)


def _entries(stream: BinaryIO, kind: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Where the entries of external data are in a message from one place to another."""
    if kind == "entry":
        yield start, end
        return
    inside = _MESSAGES[kind]
    for field, begin, stop in _fields(stream, start, end):
        if field in inside:
            yield from _entries(stream, inside[field], begin, stop)


def _entry(stream: BinaryIO, start: int, end: int) -> tuple[bytes, bytes]:
    found = {field: _read(stream, begin, stop) for field, begin, stop in _fields(stream, start, end)}
    return found.get(_KEY, b""), found.get(_VALUE, b"")


def _read(stream: BinaryIO, start: int, end: int) -> bytes:
    stream.seek(start)
    return stream.read(end - start)


def _fields(stream: BinaryIO, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """The numbers of the fields of a message, and where what they hold begins and ends."""
    place = start
    while place < end:
        stream.seek(place)
        key = _varint(stream)
        wire = key & 7
        if wire == _VARINT:
            begin = stream.tell()
            _varint(stream)
            stop = stream.tell()
        elif wire in (_LENGTH, *_FIXED):
            length = _FIXED.get(wire) or _varint(stream)
            begin = stream.tell()
            stop = begin + length
        else:
            raise ValueError("no wire type of protobuf")
        if stop > end:
            raise ValueError("a message that ends too early")
        yield key >> 3, begin, stop
        place = stop


def _varint(stream: BinaryIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = stream.read(1)
        if not byte:
            break
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("no varint of protobuf")
