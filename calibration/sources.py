"""Where data come from: files, folders, callables and objects in memory, told apart by what they hold."""

from __future__ import annotations

import importlib
import sys
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from calibration.batch import Item, Raw
from calibration.contract import LABELS
from calibration.images import ImageOptions, image_batches
from calibration.stored import NumpyFile, SafetensorsFile, check_unpacked, reading
from calibration.tables import ONLY, Arrays, Table
from ptq.errors import DataError

_MOST_UNPACKED = 1 << 28
_DIGITS = 10
"""Of the number of a sample, less than these."""


@dataclass(frozen=True, eq=False)
class Source:
    """Data before they are checked; `title` names them in messages.

    Either `table` has all samples, or `stream` yields batches or `Item`s of them, each time from the start.
    """

    title: str
    table: Table | None = None
    stream: Callable[[], Iterator[Any]] | None = None

    def items(self) -> Iterator[Item]:
        """The batches of a stream."""
        for item in self.stream() if self.stream is not None else ():
            yield item if isinstance(item, Item) else Item.of(_raw(item, self.title))

    def example(self) -> Mapping[str, np.ndarray] | None:
        """Up to two samples by name, without labels; None when the arrays have no names."""
        if self.table is not None:
            with self.table.open() as reader:
                return {name: reader(name)(0, 2) for name in self.table.headers if name != LABELS}
        items = self.items()  # which is held, so that what it reads from stays open
        first = next(items, None)
        raw = None if first is None else first.read()
        if not isinstance(raw, Mapping):
            return {ONLY: raw[0][:2]} if raw is not None and len(raw) == 1 else None
        return {name: array[:2] for name, array in raw.items() if name != LABELS}


def open_data(spec: Any, images: ImageOptions | None = None, role: str = "--data") -> Source:
    """Find out what the data are; nothing is checked against a model yet.

    `spec` is a file (.npz, .npy, .pt, .safetensors), a folder of images, `module:callable`, arrays by name, an array,
    or an iterable of batches that can be walked more than once; what was opened already is as it was.

    Raises:
        DataError: the data cannot be read.

    """
    if isinstance(spec, Source):
        return spec
    if isinstance(spec, (str, Path)):
        return _from_text(str(spec), images, role)
    title = f"{role} (in memory)"
    if isinstance(spec, Mapping):
        return Source(title, Arrays({str(name): _array(value, title) for name, value in spec.items()}))
    if hasattr(spec, "__array__"):
        return Source(title, Arrays({ONLY: _array(spec, title)}))
    if callable(spec):
        return Source(title, stream=lambda: iter(spec()))
    if isinstance(spec, Iterator):
        raise DataError(
            f"{title} is an iterator, which can be walked only once; pass a list or a function that makes it"
        )
    if isinstance(spec, Iterable):
        return Source(title, stream=lambda: iter(spec))
    raise DataError(f"{title} is a {type(spec).__name__}; pass a path, arrays by input name, or a list of batches")


def _from_text(text: str, images: ImageOptions | None, role: str) -> Source:
    path, title = Path(text), f"{role} {text}"
    if path.is_dir():
        if images is None:
            raise DataError(f"{title} is a folder of images; give --image-size, --image-mean and --image-std")
        return Source(title, stream=lambda: image_batches(path, images, title))
    if not path.exists() and ":" in text:
        return Source(title, stream=_imported(text, title))
    if not path.is_file():
        raise DataError(f"{title} does not exist; give a file, a folder of images, or module:callable")
    table = _table(path, title)
    if any("/" in name and _is_number(name.rpartition("/")[2]) for name in table.headers):
        return Source(title, stream=lambda: _ragged(table, title))
    return Source(title, table)


def _table(path: Path, title: str) -> Table:
    with path.open("rb") as file:
        head = file.read(16)
    with reading(title):
        if head.startswith(b"\x93NUMPY"):
            return NumpyFile(path, title, zipped=False)
        if head.startswith(b"PK") and _is_npz(path):
            return NumpyFile(path, title, zipped=True)
    if head.startswith((b"PK", b"\x80")):
        return Arrays(_read_torch(path, title))
    if head[8:9] == b"{":
        return SafetensorsFile(path, title)
    raise DataError(f"{title} is no data file; accepted are .npz, .npy, .pt and .safetensors of tensors")


def _is_npz(path: Path) -> bool:
    with zipfile.ZipFile(path) as archive:
        return all(name.endswith(".npy") for name in archive.namelist())


def _unpacked_bytes(path: Path) -> int:
    """What the compressed members of an archive claim to come to."""
    with zipfile.ZipFile(path) as archive:
        return sum(each.file_size for each in archive.infolist() if each.compress_type != zipfile.ZIP_STORED)


def _read_torch(path: Path, title: str) -> Mapping[str, np.ndarray]:
    import torch

    unpacked = _unpacked_bytes(path) if zipfile.is_zipfile(path) else 0
    if unpacked > _MOST_UNPACKED:
        raise DataError(
            f"{title} unpacks to {unpacked >> 20} MiB, and torch leaves tensors uncompressed; save it again with torch"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of how it was pickled
            loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # any, by what is damaged
        raise DataError(f"{title} holds no plain tensors; save a dictionary of tensors with torch.save") from error
    tensors = loaded if isinstance(loaded, Mapping) else {ONLY: loaded}
    if not all(isinstance(value, torch.Tensor) for value in tensors.values()):
        kind = type(loaded).__name__
        raise DataError(f"{title} holds a {kind}; save a tensor or a dictionary of tensors by input name")
    try:
        check_unpacked(sum(value.numel() * value.element_size() for value in tensors.values()), path, title)
        return {str(name): value.detach().numpy() for name, value in tensors.items()}
    except (RuntimeError, TypeError) as error:
        raise DataError(f"{title} holds tensors that numpy has not ({_line(error)}); save float32") from error


def _ragged(table: Table, title: str) -> Iterator[Item]:
    """Samples saved one by one as `name/0`, `name/1`, …; each becomes a batch of one."""
    numbered = [name.rpartition("/") for name in table.headers if "/" in name]
    other = next(("/".join(parts[::2]) for parts in numbered if not _is_number(parts[2])), None)
    if other is not None:
        raise DataError(f"{title} has {other!r} beside samples that are numbered; save all by number, or none")
    names = dict.fromkeys(name for name, _, _ in numbered)
    count = max(int(number) for _, _, number in numbered) + 1
    with table.open() as reader:
        labels = reader(LABELS) if LABELS in table.headers else None

        def sample(index: int) -> Mapping[str, np.ndarray]:
            found = {}
            for name in names:
                stored = f"{name}/{index}"
                if stored not in table.headers:
                    raise DataError(f"{title} has no {stored!r}, but has others of that number; save all")
                shape = table.headers[stored].shape
                found[name] = reader(stored)(0, shape[0] if shape else 1)[None]
            return found if labels is None else {**found, LABELS: labels(index, 1)}

        for index in range(count):
            yield Item(1, partial(sample, index))


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < _DIGITS


def _imported(text: str, title: str) -> Callable[[], Iterator[Any]]:
    module, _, name = text.partition(":")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # the user's module may raise anything
        raise DataError(f"{title} cannot be imported: {_fault(error)}; write module:callable") from error
    if not callable(found):
        raise DataError(f"{title} is not callable; write module:callable, a function that yields batches")
    return lambda: _called(found, title)


def _called(function: Callable[[], Any], title: str) -> Iterator[Any]:
    try:
        yield from function()
    except Exception as error:  # so may the callable
        raise DataError(f"{title} fails: {_fault(error)}; it is called without arguments and yields batches") from error


def _raw(item: Any, title: str) -> Raw:
    if isinstance(item, Mapping):
        return {str(name): _array(value, title) for name, value in item.items()}
    if isinstance(item, Sequence) and not isinstance(item, str):
        return tuple(_array(value, title) for value in item)
    return (_array(item, title),)


def _array(value: Any, title: str) -> np.ndarray:
    if hasattr(value, "detach"):
        value = value.detach().cpu().numpy()
    array = np.asarray(value)
    if array.dtype == object:
        raise DataError(f"{title} yields a {type(value).__name__} that is no array of numbers; yield arrays")
    return array


def _fault(error: Exception) -> str:
    """The error and where it was raised."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {_line(error)} ({Path(place.filename).name}, line {place.lineno})"


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
