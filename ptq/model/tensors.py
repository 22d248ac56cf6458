"""Whether the tensors of an ONNX file are there as they claim, before anything allocates what they claim."""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath

import onnx
import onnx_ir as ir

from ptq.errors import ModelFileError

_AGAIN = "save or download the model again"
_FIELDS = {
    ir.DataType.FLOAT: ("float_data", 1),
    ir.DataType.COMPLEX64: ("float_data", 2),
    ir.DataType.DOUBLE: ("double_data", 1),
    ir.DataType.COMPLEX128: ("double_data", 2),
    ir.DataType.INT64: ("int64_data", 1),
    ir.DataType.UINT32: ("uint64_data", 1),
    ir.DataType.UINT64: ("uint64_data", 1),
    ir.DataType.STRING: ("string_data", 1),
}
"""Where a type that is not raw has its numbers, and how many entries each takes; the others have theirs in int32."""

_DIGITS = 20
"""Of the largest number of bytes."""


def check_tensors(proto: onnx.ModelProto, path: Path | None) -> None:
    """Check all weights of a model that lies in a file, or in memory.

    Raises:
        ModelFileError: one is not there, is shorter or longer than its shape, lies outside the folder of the model, or
            is stored in a way that is not read.

    """
    for graph in _graphs(proto):
        if graph.sparse_initializer:
            name = graph.sparse_initializer[0].values.name
            raise ModelFileError(f"the weight {name!r} is a sparse tensor, which is not read; export it as a dense one")
        names = Counter(tensor.name for tensor in graph.initializer)
        twice = next((name for name, count in names.items() if count > 1), None)
        if "" in names:
            raise ModelFileError("the model has a weight without a name; export it again")
        if twice is not None:
            raise ModelFileError(f"the model has two weights of the name {twice!r}; export it again")
    for tensor in _tensors(proto):
        _check(tensor, path)


def nodes_within(nodes: Iterable[onnx.NodeProto]) -> Iterator[onnx.NodeProto]:
    """Nodes and those of the graphs inside of them, at any depth."""
    left = [nodes]
    while left:
        for node in left.pop():
            yield node
            left += [graph.node for graph in _inside_of(node)]


def _inside_of(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _nodes(proto: onnx.ModelProto) -> Iterator[onnx.NodeProto]:
    for body in (proto.graph.node, *(function.node for function in proto.functions)):
        yield from nodes_within(body)


def _graphs(proto: onnx.ModelProto) -> Iterator[onnx.GraphProto]:
    yield proto.graph
    for node in _nodes(proto):
        yield from _inside_of(node)


def _tensors(proto: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """All weights: initializers, and attributes of nodes."""
    for graph in _graphs(proto):
        yield from graph.initializer
    for attribute in (attribute for node in _nodes(proto) for attribute in node.attribute):
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors


def _check(tensor: onnx.TensorProto, path: Path | None) -> None:
    name, shape = tensor.name, list(tensor.dims)
    try:
        dtype = ir.DataType(tensor.data_type)
    except ValueError:
        dtype = ir.DataType.UNDEFINED
    if dtype == ir.DataType.UNDEFINED:
        raise ModelFileError(f"the weight {name!r} has type {tensor.data_type}, which ONNX does not have; {_AGAIN}")
    if min(shape, default=0) < 0:
        raise ModelFileError(f"the weight {name!r} has shape {shape}, sizes are at least 0; {_AGAIN}")
    if tensor.HasField("segment"):
        raise ModelFileError(f"the weight {name!r} is stored in segments, which are not read; export it in one piece")
    count, external = math.prod(shape), tensor.data_location == onnx.TensorProto.EXTERNAL
    unit = "bytes" if external or tensor.HasField("raw_data") else "numbers"
    if unit == "bytes":
        if dtype == ir.DataType.STRING:
            raise ModelFileError(f"the weight {name!r} is text in the form of numbers; {_AGAIN}")
        needed = -(-count * dtype.bitwidth // 8)
        held = _external(tensor, path, needed) if external else len(tensor.raw_data)
    else:
        field, entries = _FIELDS.get(dtype, ("int32_data", 1))
        narrow = dtype != ir.DataType.STRING and dtype.bitwidth < 8  # several share an entry
        needed = -(-count * dtype.bitwidth // 8) if narrow else count * entries
        held = len(getattr(tensor, field))
    if held != needed:
        raise ModelFileError(
            f"the weight {name!r} of shape {shape} takes {needed} {unit}, the file holds {held} for it; {_AGAIN}"
        )


def base_of(proto: onnx.ModelProto, path: Path) -> Path:
    """The folder that the locations of external data start from, once links are followed: they then have none.

    That of the model, but where it is a link, as in caches of downloads: then what lies above both. Locations that go
    through links are written anew.
    """
    folders = _folders(path)
    base = Path(os.path.commonpath(folders))
    for tensor in _tensors(proto) if len({*folders}) > 1 else ():
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = str((folders[0] / entry.value).resolve().relative_to(base))
    return base


def _folders(path: Path | None) -> tuple[Path, Path]:
    """Where the data of a model may lie: beside its name, and where that is a link, beside what it leads to."""
    return (Path.cwd(), Path.cwd()) if path is None else (path.parent.resolve(), path.resolve().parent)


def _external(tensor: onnx.TensorProto, path: Path | None, needed: int) -> int:
    """How many bytes a file beside the model holds for a tensor."""
    entries = {entry.key: entry.value for entry in tensor.external_data if entry.value}
    file = _file(tensor.name, entries.get("location", ""), path)
    offset, length = (_number(entries.get(key, "0"), key, tensor.name) for key in ("offset", "length"))
    length = length if "length" in entries else needed
    if offset + length > file.stat().st_size:
        raise ModelFileError(f"the weight {tensor.name!r} ends behind the end of {file}; save or download it again")
    return length


def _number(text: str, what: str, name: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= _DIGITS):
        raise ModelFileError(f"the weight {name!r} has the {what} {text[:_DIGITS]!r} in its file, no number; {_AGAIN}")
    return int(text)


def _file(name: str, location: str, path: Path | None) -> Path:
    """The file of that location, which lies in the folder of the model; where the model is a link, in its own too.

    Raises:
        ModelFileError: it is missing, or leads elsewhere, by its name or by links.

    """
    parts = PurePosixPath(location), PureWindowsPath(location)
    plain = location and "\0" not in location and not any(p.is_absolute() or p.drive or ".." in p.parts for p in parts)
    folders = _folders(path)
    try:
        file = folders[0] / location if plain else None
        inside = file is not None and any(file.resolve().is_relative_to(folder) for folder in folders)
        missing = file is not None and not file.is_file()
    except (OSError, RuntimeError) as error:  # a name too long, or links in a circle
        raise ModelFileError(
            f"the weight {name!r} lies in {location!r}, which is no path here; put its data next to the model"
        ) from error
    if file is None or not inside:
        raise ModelFileError(
            f"the weight {name!r} lies in {location!r}, outside the folder of the model; save the model again with its "
            f"data next to it"
        )
    if missing:
        raise ModelFileError(f"the weight {name!r} lies in {file}, which is missing; put it next to the model")
    return file
