"""What a pickle would import, read from its opcodes: nothing is loaded, so nothing runs.

Only `torch.load(weights_only=True)` guards a load; this scan decides what a file is and what to call it.
"""

from __future__ import annotations

import pickletools
import re
import struct
import warnings
from collections import deque
from typing import IO

from ptq.errors import ModelFileError

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
"""The first object of a `torch.save` file that is not a zip archive."""

_LEGACY_PREAMBLE = 2  # the protocol version and the sizes of C types stand between the magic number and the object
_BYTES_LIMIT = 1 << 24
_OPCODES_LIMIT = 1 << 21  # a tensor takes about 40
_STRINGS = {"SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "UNICODE"}
_PUTS = {"PUT", "BINPUT", "LONG_BINPUT"}
_GETS = {"GET", "BINGET", "LONG_BINGET"}
_UNKNOWN = "a computed name"

_DATA = re.compile(
    r"collections\.(OrderedDict|defaultdict|Counter)"
    r"|(builtins|__builtin__)\.(int|float|complex|bool|str|bytes|bytearray|list|tuple|dict|set|frozenset)"
    r"|_codecs\.encode"
    r"|torch\._utils\._rebuild_\w+|torch\._tensor\._rebuild_from_type_v2|torch\.nn\.parameter\.Parameter"
    r"|torch(\.cuda|\.storage)?\.(\w+Storage)|torch\.(Tensor|Size|device)|torch\.serialization\._get_layout"
    r"|torch\.(float|bfloat|int|uint|complex|bool|quint|qint|bits|double|half|long)\w*"
    r"|numpy\.(_?core\.multiarray\.(scalar|_reconstruct)|dtype|ndarray|dtypes\.\w+)"
)


class _Limited:
    """The part of a stream that may be scanned: a hostile length must not become an allocation."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._left = _BYTES_LIMIT

    def read(self, size: int) -> bytes:
        return self._counted(self._stream.read(min(size, self._left + 1)))

    def readline(self) -> bytes:
        return self._counted(self._stream.readline(self._left + 1))

    def _counted(self, data: bytes) -> bytes:
        self._left -= len(data)
        if self._left < 0:
            raise ValueError(f"longer than {_BYTES_LIMIT >> 20} MiB")
        return data


def _imports(stream: _Limited) -> set[str]:
    found: set[str] = set()
    memo: dict[int, str] = {}
    memoized = 0
    top: deque[str | None] = deque([None, None], maxlen=2)
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):  # type: ignore[arg-type]
        if opcode.name in _STRINGS:
            top.append(argument)
        elif opcode.name in _PUTS or opcode.name == "MEMOIZE":
            if top[-1] is not None:
                memo[memoized if argument is None else argument] = top[-1]
            memoized += 1
        elif opcode.name in _GETS:
            top.append(memo.get(int(str(argument))))
        elif opcode.name in ("GLOBAL", "INST"):
            found.add(str(argument).replace(" ", "."))
            top.append(None)
        elif opcode.name == "STACK_GLOBAL":
            found.add(_UNKNOWN if None in top else ".".join(map(str, top)))
            top.append(None)
        elif opcode.stack_after:
            top.append(None)
        if count > _OPCODES_LIMIT:
            raise ValueError(f"more than {_OPCODES_LIMIT} opcodes")
    return found


def imports(stream: IO[bytes], name: str) -> frozenset[str]:
    """The dotted names that the next pickle of a stream would import; `name` is what messages call it.

    Raises:
        ModelFileError: the stream does not hold a whole pickle, or one too long to be the description of a model.

    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # odd escapes in damaged strings
            return frozenset(_imports(_Limited(stream)))
    except (ValueError, OverflowError, IndexError, EOFError, struct.error) as error:
        reason = " ".join(str(error).split())[:100]
        raise ModelFileError(f"{name} holds a damaged pickle ({reason}); save or download the file again") from error


def legacy_imports(stream: IO[bytes], name: str) -> frozenset[str]:
    """The same for the object of a `torch.save` file that is not a zip archive."""
    for _ in range(1 + _LEGACY_PREAMBLE):
        imports(stream, name)
    return imports(stream, name)


def is_legacy(head: bytes) -> bool:
    """Whether a file that begins with these bytes was written by `torch.save` without a zip archive."""
    magic = LEGACY_MAGIC.to_bytes(10, "little") + b"."  # the number and STOP; the frame before it varies
    return head[:1] == b"\x80" and magic in head[:32]


def code(names: frozenset[str]) -> list[str]:
    """Those of the imported names that are more than tensors, containers and numbers, sorted."""
    return sorted(name for name in names if not _DATA.fullmatch(name))
