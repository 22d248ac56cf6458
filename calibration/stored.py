"""Tables in files, read a few samples at a time, so that memory does not grow with their number."""

from __future__ import annotations

import math
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from os import SEEK_CUR
from pathlib import Path
from typing import IO, Any, ClassVar

import numpy as np
from numpy.lib import format as npy

from calibration.tables import ONLY, Header, Take, slices
from ptq.errors import DataError

_READ_BYTES = 1 << 18
_MUCH_BYTES, _MOST_TIMES = 1 << 30, 200
_BROKEN = (OSError, zipfile.BadZipFile, zlib.error, EOFError, KeyError, ValueError, RuntimeError)
"""What the readers of files raise; RuntimeError is zipfile's for what is encrypted or compressed in an unknown way."""


class _File:
    """A file that must be the same at every walk: what is known of it was found once."""

    def __init__(self, path: Path, title: str) -> None:
        self.path, self.title = path, title
        self._state = self._found()

    def _found(self) -> tuple[int, int, int]:
        state = self.path.stat()
        return state.st_mtime_ns, state.st_size, state.st_ino

    def check_unchanged(self) -> None:
        """Refuse a file that is another one by now.

        Raises:
            DataError: it is.

        """
        with reading(self.title):
            found = self._found()
        if found != self._state:
            raise DataError(f"{self.title} was changed while it was in use; start again when it is complete")


class NumpyFile(_File):
    """An .npy, or an .npz, stored or compressed. An array in Fortran order is read whole: its samples lie scattered."""

    def __init__(self, path: Path, title: str, *, zipped: bool) -> None:
        super().__init__(path, title)
        self._zipped = zipped
        self.headers: Mapping[str, Header] = {}
        with reading(title):
            self._check_unpacked()
        with reading(title), self._members() as (names, member):
            self.headers = {name: self._checked(name, *member(name)) for name in names}

    @contextmanager
    def open(self) -> Iterator[Callable[[str], Take]]:
        """Begin a walk."""
        self.check_unchanged()
        used: list[IO[bytes]] = []
        with ExitStack() as stack:
            with reading(self.title):
                _, member = stack.enter_context(self._members())
            stack.callback(lambda: [file.close() for file in used])

            def reader(name: str) -> Take:
                used[:] = [file for file in used if not file.closed]
                with reading(self.title):
                    used.append(member(name)[0])
                    return self._take(used[-1])

            yield reader

    @contextmanager
    def _members(self) -> Iterator[tuple[list[str], Callable[[str], tuple[IO[bytes], int]]]]:
        """The names of the arrays, and what opens one and tells its size."""
        if not self._zipped:
            yield [ONLY], lambda _: (self.path.open("rb"), self.path.stat().st_size)
            return
        with zipfile.ZipFile(self.path) as archive:

            def member(name: str) -> tuple[IO[bytes], int]:
                info = archive.getinfo(f"{name}.npy")
                return archive.open(info), info.file_size

            yield [each.removesuffix(".npy") for each in archive.namelist()], member

    def _check_unpacked(self) -> None:
        if not self._zipped:
            return
        with zipfile.ZipFile(self.path) as archive:
            check_unpacked(sum(info.file_size for info in archive.infolist()), self.path, self.title)

    def _checked(self, name: str, file: IO[bytes], size: int) -> Header:
        with file:
            header, _ = _header(file)
            if header.dtype.hasobject:
                raise DataError(
                    f"{self.title} holds arrays of Python objects, which are not read; save one array per sample as "
                    f"'name/0', 'name/1', …, or a padded array"
                )
            if size - file.tell() < header.dtype.itemsize * math.prod(header.shape):
                raise EOFError(f"the array {name!r} is cut off")
        return header

    def _take(self, file: IO[bytes]) -> Take:
        header, fortran = _header(file)
        if fortran or not header.shape:
            with file:
                array = _read(file, header.dtype, header.shape[::-1])
            return slices(array.T)
        at, end = 0, header.shape[0]

        def take(start: int, count: int) -> np.ndarray:
            nonlocal at
            count = max(min(count, end - start), 0)
            with reading(self.title):
                if count and start > at:
                    file.seek((start - at) * header.sample_bytes, SEEK_CUR)
                array = _read(file, header.dtype, (count, *header.shape[1:]))
                at = start + count
                if at >= end:
                    file.close()
            return array

        return take


class SafetensorsFile(_File):
    """A file of tensors. It is mapped anew for every few samples, so that what was read does not stay in memory."""

    _TYPES: ClassVar[Mapping[str, str]] = {
        **{f"F{bits}": f"float{bits}" for bits in (16, 32, 64)},
        **{f"I{bits}": f"int{bits}" for bits in (8, 16, 32, 64)},
        **{f"U{bits}": f"uint{bits}" for bits in (8, 16, 32, 64)},
        "BOOL": "bool",
    }

    def __init__(self, path: Path, title: str) -> None:
        super().__init__(path, title)
        self.headers: Mapping[str, Header] = {}
        with self._opened() as file:
            parts = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  (it is no dictionary)
            for name, part in parts.items():
                if part.get_dtype() not in self._TYPES:
                    raise DataError(f"{title}: {name!r} is {part.get_dtype()}, which numpy has not; save it as float32")
            self.headers = {
                name: Header(np.dtype(self._TYPES[part.get_dtype()]), tuple(part.get_shape()))
                for name, part in parts.items()
            }

    @contextmanager
    def open(self) -> Iterator[Callable[[str], Take]]:
        """Begin a walk."""
        self.check_unchanged()
        yield self._take

    def _take(self, name: str) -> Take:
        header = self.headers[name]

        def take(start: int, count: int) -> np.ndarray:
            if not header.shape:
                with self._opened() as file:
                    return np.array(file.get_tensor(name))
            if min(count, header.shape[0] - start) <= 0:
                return np.empty((0, *header.shape[1:]), header.dtype)
            with self._opened() as file:
                return np.array(file.get_slice(name)[start : start + count])

        return take

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(self.path, "numpy") as file:
                yield file
        except (SafetensorError, OSError) as error:
            raise unreadable(self.title, error) from error


def check_unpacked(claimed: int, path: Path, title: str) -> None:
    """Refuse a file that a few bytes make go on for hours; only masks are packed so well, and take little.

    Raises:
        DataError: its arrays claim to come to far more bytes than it has.

    """
    size = path.stat().st_size
    if claimed > max(_MUCH_BYTES, _MOST_TIMES * size):
        raise DataError(
            f"{title} unpacks to {claimed / 1e9:.1f} GB, {claimed // size} times its size; if that is meant, save it "
            f"uncompressed"
        )


@contextmanager
def reading(title: str) -> Iterator[None]:
    """Turn what readers of files raise into one line."""
    try:
        yield
    except DataError:
        raise
    except _BROKEN as error:
        raise unreadable(title, error) from error


def unreadable(title: str, error: Exception) -> DataError:
    """The error for a file that is broken."""
    return DataError(f"{title} cannot be read: {' '.join(str(error).split())[:200]}; save it again")


def _header(file: IO[bytes]) -> tuple[Header, bool]:
    """The header of an .npy, and whether it is in Fortran order."""
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(file)
    if version not in readers:
        raise ValueError(f"version {version} of .npy is for named fields")
    try:
        shape, fortran, dtype = readers[version](file)
    except Exception as error:  # it is read as Python, which raises what it likes
        raise ValueError(f"its header is damaged ({' '.join(str(error).split())})") from error
    if min(shape, default=0) < 0:
        raise ValueError(f"its header is damaged (the shape is {shape})")
    return Header(dtype, shape), fortran


def _read(file: IO[bytes], dtype: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    array = np.empty(shape, dtype)
    rest = array.reshape(-1).view(np.uint8).data
    while rest:
        part = file.read(min(len(rest), _READ_BYTES))
        if not part:
            raise EOFError("an array is cut off")
        rest[: len(part)] = part
        rest = rest[len(part) :]
    return array
