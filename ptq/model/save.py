"""A graph as a file of ONNX, or as two where it is too large for one, written a weight at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import onnx
import onnx_ir as ir

from ptq.errors import ModelError, first_line
from ptq.model.graph import Model
from ptq.model.streamed import Streamed, pieces
from ptq.model.wire import data_files

LARGEST: Final = (1 << 31) - 1
"""The bytes that one file of protobuf may have."""

_LEAST_APART: Final = 1 << 16
_ALIGNED: Final = 4096
"""Where weights begin in a file of their own, so that they can be mapped into memory."""

_GRAPH, _INITIALIZER, _RAW_DATA = b"\x3a", b"\x2a", b"\x4a"
"""The keys of fields in protobuf: of a model, of its graph, of a tensor."""

_TOO_LARGE: Final = "the model is larger than the 2 GB that one ONNX file holds, which is not supported here"


def write(model: Model, path: Path, most_bytes: int = LARGEST) -> Path | None:
    """Write a graph as a file; what one file does not hold goes to another beside it, `path` with `.data` behind.

    The files are the same for the same graph. Returns the other file where there is one.
    """
    total, parts = _whole(model)
    if total <= most_bytes:
        with path.open("wb") as file:
            for part in parts:
                file.write(part)
        return None
    data = beside(path)
    _write_apart(model, path, data)
    return data


def beside(path: Path) -> Path:
    """Where the weights of a file are that does not hold them."""
    return path.with_name(f"{path.name}.data")


def refers_to(path: Path, name: str) -> bool:
    """Whether a file is a model with weights in another of that name."""
    try:
        return any(file.name == name for file in data_files(path))
    except ValueError:  # it is no model
        return False


def refer_to(path: Path, name: str) -> None:
    """Let a file have its weights in another of that name."""
    model = onnx.load(path, format="protobuf", load_external_data=False)
    for entry in (entry for tensor in _outer(model) for entry in tensor.external_data if entry.key == "location"):
        entry.value = name
    path.write_bytes(model.SerializeToString(deterministic=True))


def whole_bytes(model: Model) -> int:
    """How many bytes a graph has as one file, whether or not that is allowed."""
    return _whole(model)[0]


def serialized(model: Model) -> bytes:
    """The bytes of the one file of a graph.

    Raises:
        ModelError: one file does not hold so much.

    """
    total, parts = _whole(model)
    if total > LARGEST:
        raise ModelError(f"{_TOO_LARGE}; quantize a smaller part of it")
    return b"".join(parts)


def digest(model: Model) -> str:
    """SHA-256 of a graph and its weights, wherever they lie."""
    proto, apart = split(model)
    found = hashlib.sha256(proto.SerializeToString(deterministic=True))
    for tensor in apart:
        for piece in pieces(tensor):
            found.update(piece)
    return found.hexdigest()


def split(model: Model) -> tuple[onnx.ModelProto, list[ir.TensorProtocol]]:
    """A graph without its large weights, which follow in the order in which they stand there, as external tensors.

    Raises:
        ModelError: what is left is too large for one file.

    """
    apart: list[ir.TensorProtocol] = []
    own = [value for graph in model.graph.graphs() for value in graph.initializers.values()]
    held = [value.const_value for value in own]
    try:  # a clone would have names for nodes that have none
        for value, tensor in zip(own, held, strict=True):
            if tensor is not None and value.graph is model.graph.graph and tensor.nbytes >= _LEAST_APART:
                apart.append(tensor)
                value.const_value = _without_numbers(tensor)
            elif isinstance(tensor, Streamed):
                value.const_value = tensor.loaded()
        proto: onnx.ModelProto = ir.to_proto(model.graph)
        if proto.ByteSize() > LARGEST:
            raise ValueError
    except ValueError as error:
        raise ModelError(f"{_TOO_LARGE} but for large weights; quantize a smaller part of it") from error
    finally:
        for value, tensor in zip(own, held, strict=True):
            value.const_value = tensor
    stored = {tensor.name for tensor in proto.graph.initializer}
    told = [value for value in proto.graph.value_info if value.name not in stored]  # initializers have types
    del proto.graph.value_info[:]
    proto.graph.value_info.extend(told)
    return proto, apart


def _without_numbers(tensor: ir.TensorProtocol) -> ir.ExternalTensor:
    shape = ir.Shape(tensor.shape.numpy())
    return ir.ExternalTensor("", 0, tensor.nbytes, tensor.dtype, shape=shape, name=str(tensor.name))


def _whole(model: Model) -> tuple[int, Iterator[bytes]]:
    """How many bytes the one file has, and these: what stands around the graph, then the graph, large weights last."""
    proto, apart = split(model)
    graph = proto.graph
    heads = [_head(tensor) for tensor in _outer(proto)]
    inner = [tensor for tensor in graph.initializer if tensor.data_location != onnx.TensorProto.EXTERNAL]
    del graph.initializer[:]
    graph.initializer.extend(inner)
    own = graph.SerializeToString(deterministic=True)
    proto.ClearField("graph")
    before = proto.SerializeToString(deterministic=True)
    sizes = [len(head) + tensor.nbytes for head, tensor in zip(heads, apart, strict=True)]
    whole = len(own) + sum(len(_INITIALIZER + _varint(size)) + size for size in sizes)
    opening = before + _GRAPH + _varint(whole) + own

    def parts() -> Iterator[bytes]:
        yield opening
        for head, tensor, size in zip(heads, apart, sizes, strict=True):
            yield _INITIALIZER + _varint(size) + head
            yield from pieces(tensor)

    return len(opening) - len(own) + whole, parts()


def _outer(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    return [tensor for tensor in proto.graph.initializer if tensor.data_location == onnx.TensorProto.EXTERNAL]


def _head(tensor: onnx.TensorProto) -> bytes:
    """A tensor up to its numbers."""
    head = onnx.TensorProto(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
    length = next(int(entry.value) for entry in tensor.external_data if entry.key == "length")
    return bytes(head.SerializeToString(deterministic=True)) + _RAW_DATA + _varint(length)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _write_apart(model: Model, path: Path, data: Path) -> None:
    proto, apart = split(model)
    with data.open("wb") as file:
        for tensor, held in zip(_outer(proto), apart, strict=True):
            file.write(bytes(-file.tell() % _ALIGNED))
            del tensor.external_data[:]
            for key, value in (("location", data.name), ("offset", file.tell()), ("length", held.nbytes)):
                tensor.external_data.add(key=key, value=str(value))
            for piece in pieces(held):
                file.write(piece)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def loaded(path: Path) -> onnx.ModelProto:
    """The model in a file, with all its weights."""
    return onnx.load(path, format="protobuf")


def metadata(path: Path) -> dict[str, str]:
    """The metadata of a file.

    Raises:
        ModelError: it is no ONNX file.

    """
    try:
        model = onnx.load(path, format="protobuf", load_external_data=False)
    except Exception as error:  # protobuf's errors share no base class with those of the system
        raise ModelError(f"{path} is no ONNX file ({first_line(error)}); give another") from error
    return {entry.key: entry.value for entry in model.metadata_props}
