"""What kind of model a file holds, found by looking into it, never at its name, and never by loading it."""

from __future__ import annotations

import json
import os
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import IO

from ptq.errors import ModelFileError
from ptq.model import foreign, pickles

ACCEPTED = (
    "ptq reads ONNX, torch.export programs, TorchScript, pickled nn.Modules, and state dicts (torch.save, safetensors)"
)

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")
_HEAD_BYTES = 512
_PROTOCOLS = (b"\2", b"\3", b"\4", b"\5")
_COMPRESSED_LIMIT = 1 << 28  # TorchScript compresses its code; a claim beyond this is no code
_SAFETENSORS_LIMIT = 1 << 25
_DAMAGE = (zipfile.BadZipFile, zipfile.LargeZipFile, ValueError, EOFError, struct.error, RuntimeError, zlib.error)


class Kind(Enum):
    """What a model file holds; the value is its name in messages."""

    ONNX = "ONNX"
    EXPORTED_PROGRAM = "torch.export program"
    TORCHSCRIPT = "TorchScript"
    PICKLED_MODULE = "pickled nn.Module"
    STATE_DICT = "state dict"
    SAFETENSORS = "safetensors"


def detect(path: Path) -> Kind:
    """The kind of a model file; reads its structure, not its weights.

    Raises:
        ModelFileError: the file cannot be read, is damaged, or holds no model; the message says what it is.

    """
    try:
        size = _regular_size(path)
        with path.open("rb") as stream:
            return _kind(path, stream, size)
    except FileNotFoundError:
        raise ModelFileError(f"{path} does not exist; check the path") from None
    except PermissionError:
        raise ModelFileError(f"{path} may not be read by this user; change its permissions") from None
    except OSError as error:
        raise ModelFileError(f"{path} cannot be read: {error.strerror or error}; check the path") from error


def _regular_size(path: Path) -> int:
    """The size of a regular file; asked before opening, since opening a pipe waits for its writer."""
    if "\0" in str(path):
        raise ModelFileError(f"{str(path)!r} is no path, it holds a null character; check the path")
    status = path.stat()
    if stat.S_ISDIR(status.st_mode):
        raise _not_a_model(path, foreign.directory(path))
    if not stat.S_ISREG(status.st_mode):
        raise _not_a_model(path, foreign.special_file(status.st_mode) or "not a regular file")
    if status.st_size == 0:
        raise _not_a_model(path, "empty")
    return status.st_size


def _kind(path: Path, stream: IO[bytes], size: int) -> Kind:
    head = stream.read(_HEAD_BYTES)
    stream.seek(0)
    if head.startswith(_ZIP):
        return _zip_kind(path, stream, size)
    if pickles.is_legacy(head):
        return _pickle_kind(pickles.legacy_imports(stream, str(path)))
    if head[8:9] == b"{":
        _check_safetensors(path, stream, size)
        return Kind.SAFETENSORS
    found = _onnx_fields(stream, size)
    if found is None:
        raise _not_a_model(path, _described(stream, head, path))
    if found == "whole":
        return Kind.ONNX
    raise _not_a_model(path, found)


def _not_a_model(path: Path, what: str) -> ModelFileError:
    return ModelFileError(f"{path} is {what}; {ACCEPTED}")


def _described(stream: IO[bytes], head: bytes, path: Path) -> str:
    """What a file is that is neither a zip archive, nor safetensors, nor ONNX."""
    if head[:1] != b"\x80" or head[1:2] not in _PROTOCOLS:
        return foreign.content(head)
    stream.seek(0)
    names = ", ".join(pickles.code(pickles.imports(stream, str(path)))[:3])
    return f"a pickle not written by torch.save{f' (of {names})' if names else ''}"


def _pickle_kind(names: frozenset[str]) -> Kind:
    return Kind.PICKLED_MODULE if pickles.code(names) else Kind.STATE_DICT


def _zip_kind(path: Path, stream: IO[bytes], size: int) -> Kind:
    try:
        with zipfile.ZipFile(stream) as archive:
            _check_members(path, archive, size)
            return _archive_kind(path, archive)
    except _DAMAGE as error:
        if isinstance(error, ModelFileError):
            raise
        raise ModelFileError(
            f"{path} is a zip archive that is cut short or damaged ({size} bytes); save or download it again"
        ) from error


def _check_members(path: Path, archive: zipfile.ZipFile, size: int) -> None:
    """Refuse an archive whose claims cannot be true, before anything allocates what they claim."""
    infos = archive.infolist()
    stored = sum(info.compress_size for info in infos)
    if infos and min(info.header_offset for info in infos) > 0:  # the end of an archive inside a cut one was found
        raise zipfile.BadZipFile("does not begin with its first member")
    lying = any(i.compress_type == zipfile.ZIP_STORED and i.file_size != i.compress_size for i in infos)
    claimed = foreign.compressed(archive)
    if stored > size or lying:
        raise ModelFileError(f"{path} is a zip archive whose members are larger than itself; save it again")
    if len({info.filename for info in infos}) != len(infos):
        raise ModelFileError(f"{path} is a zip archive that holds a name twice; save it again")
    if claimed > _COMPRESSED_LIMIT:
        raise ModelFileError(
            f"{path} is a zip archive that unpacks to {claimed >> 20} MiB, torch leaves weights uncompressed; "
            f"save it again with torch"
        )


def _archive_kind(path: Path, archive: zipfile.ZipFile) -> Kind:
    names = archive.namelist()
    inner = {name.partition("/")[2] for name in names}
    if "serialized_exported_program.json" in names:
        return Kind.EXPORTED_PROGRAM
    if "archive_format" in inner and any(n.startswith("models/") and n.endswith(".json") for n in inner):
        return Kind.EXPORTED_PROGRAM
    if "data.pkl" not in inner:
        raise _not_a_model(path, foreign.archive(names))
    if "constants.pkl" in inner and any(name.startswith("code/") for name in inner):
        return Kind.TORCHSCRIPT
    member = next(name for name in names if name.partition("/")[2] == "data.pkl")
    with archive.open(member) as stream:
        return _pickle_kind(pickles.imports(stream, str(path)))


def _check_safetensors(path: Path, stream: IO[bytes], size: int) -> None:
    """Check the header: its length, its JSON, and that the bytes it promises are there."""
    (length,) = struct.unpack("<Q", stream.read(8))
    if length > _SAFETENSORS_LIMIT:
        raise _not_a_model(path, "in no format that is known here")
    text = stream.read(length)
    end = None
    if len(text) == length:
        try:
            header = json.loads(text)
            end = max((entry["data_offsets"][1] for key, entry in header.items() if key != "__metadata__"), default=0)
        except (ValueError, TypeError, AttributeError, LookupError, RecursionError) as error:
            raise ModelFileError(f"{path} is a safetensors file with a damaged header; save it again") from error
    if end is None or end != size - 8 - length:
        need = f", {8 + length + end} are announced" if end is not None else ""
        raise ModelFileError(f"{path} is a safetensors file cut short or damaged ({size} bytes{need}); save it again")


_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_IR_VERSION, _META_GRAPHS, _GRAPH = 1, 2, 7


def _onnx_fields(stream: IO[bytes], size: int) -> str | None:
    """`whole` for an ONNX ModelProto, what is wrong with what begins like one, or None for anything else.

    Only the outermost fields are visited; what they hold is skipped, however large it is.
    """
    stream.seek(0)
    seen: set[int] = set()
    try:
        for field, wire in _fields(stream, size):
            if not seen and (field, wire) != (_IR_VERSION, _VARINT):
                return None
            seen.add(field)
    except EOFError:
        return f"an ONNX model cut short ({size} bytes): save or download it again" if seen else None
    except ValueError:
        return None
    if _GRAPH in seen:
        return "whole"
    if seen == {_IR_VERSION, _META_GRAPHS}:
        return "a TensorFlow SavedModel (saved_model.pb)"
    return f"an ONNX model without a graph ({size} bytes): save or download it again"


def _fields(stream: IO[bytes], size: int) -> Iterator[tuple[int, int]]:
    """The numbers and wire types of the outermost fields of a protobuf message."""
    while stream.tell() < size:
        key = _varint(stream)
        field, wire = key >> 3, key & 7
        if not 0 < field < 1 << 12:
            raise ValueError("no field of a model")
        if wire == _VARINT:
            _varint(stream)
        elif wire in (_FIXED64, _FIXED32, _LENGTH):
            length = {_FIXED64: 8, _FIXED32: 4}.get(wire) or _varint(stream)
            if length > size - stream.tell():
                raise EOFError
            stream.seek(length, os.SEEK_CUR)
        else:
            raise ValueError("no wire type")
        yield field, wire


def _varint(stream: IO[bytes]) -> int:
    value = 0
    for shift in range(0, 70, 7):
        byte = stream.read(1)
        if not byte:
            raise EOFError
        value |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return value
    raise ValueError("no varint")
