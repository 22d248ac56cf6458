"""A folder of values by what they follow from: whole or not there at all, the least recently used ones dropped.

An entry is a safetensors file with a description in its header, written beside its name and then moved there. Its name
is a hash of its kind, of all that it follows from, and of the code of this package.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Generic, TypeVar

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ptq.cache.encoding import Encoder, decoded, fingerprint
from ptq.cache.locks import earliest
from ptq.cache.packing import Packing, packed, unpacked
from ptq.cache.place import usual, writing
from ptq.cache.scratch import Scratch
from ptq.errors import CacheError

BOUND: Final = "PTQ_CACHE_GB"
"""The environment variable of how many gigabytes are left there when a run ends."""

_USUAL_BOUND: Final = 10.0
_TREE, _KIND, _ABOUT, _PACKED = "ptq.tree", "ptq.kind", "ptq.about", "ptq.packed"
_SUFFIX, _UNFINISHED = ".safetensors", ".unfinished"
_STALE_SECONDS: Final = 3600.0
_IN_MEMORY: Final = 1 << 27
"""Bytes of entries that are held besides, so that small models are not read again and again."""

T = TypeVar("T")


@dataclass(frozen=True)
class Entry:
    """What one entry is; `used` is when, in seconds since 1970."""

    path: Path
    kind: str
    about: str
    bytes: int
    used: float


class Store:
    """The entries of a folder; new ones are `about` what a user calls it by, such as the path of a model."""

    def __init__(self, folder: Path, most_bytes: int, about: str = "") -> None:
        """Open a folder, and make it where there is none.

        Raises:
            CacheError: it cannot be made.

        """
        self.folder, self.most_bytes, self.about = folder, most_bytes, about
        self._memory: OrderedDict[Path, tuple[Any, int]] = OrderedDict()
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def get(self, kind: str, key: Callable[[], Any], make: Callable[[], T]) -> T:
        """What follows from a key, as it was made for an equal one once, else made now."""
        return self.keep(kind, key, make).load()

    def keep(self, kind: str, key: Callable[[], Any], make: Callable[[], T]) -> Kept[T]:
        """The same, of which no more than there is room for stays in memory.

        Raises:
            CacheError: it cannot be written.

        """
        kept: Kept[T] = self._named(kind, key)
        if kept.path in self._memory or self._read(kept.path) is not None:
            with contextlib.suppress(OSError):
                os.utime(kept.path)
        else:
            self._write(kept.path, kind, make())
        return kept

    def find(self, kind: str, key: Callable[[], Any]) -> Kept[Any] | None:
        """The same where it was made before, else None."""
        kept = self._named(kind, key)
        with contextlib.suppress(OSError, SafetensorError), safe_open(kept.path, framework="pt"):
            os.utime(kept.path)
            return kept
        return None

    def put(self, path: Path, content: bytes) -> None:
        """Let there be an entry that another store has.

        Raises:
            CacheError: it cannot be written.

        """
        if not path.exists():
            self._place(path, lambda unfinished: unfinished.write_bytes(content))

    @contextlib.contextmanager
    def scratch(self) -> Iterator[Scratch]:
        """A place for what is too large for memory while this lasts; that of a run that is killed goes with `trim`.

        Raises:
            CacheError: it cannot be made.

        """
        with writing(self.folder):
            place = tempfile.TemporaryDirectory(_UNFINISHED, dir=self.folder)
        with place as folder:
            yield Scratch(Path(folder), self.folder)

    def _named(self, kind: str, key: Callable[[], Any]) -> Kept[Any]:
        name = hashlib.sha256(f"{kind}\n{_code()}\n{fingerprint(key())}".encode()).hexdigest()
        return Kept(self, self.folder / name[:2] / f"{name[2:]}{_SUFFIX}")

    def load(self, path: Path) -> Any:
        """The value of an entry.

        Raises:
            CacheError: somebody removed it.

        """
        if path in self._memory:
            self._memory.move_to_end(path)
            return self._memory[path][0]
        found = self._read(path)
        if found is None:
            raise CacheError(
                f"{path} was removed while it was needed; run the same again, it goes on from where it was"
            )
        return found

    def _read(self, path: Path) -> Any:
        """None where there is no such entry, or none that can be read."""
        try:
            with safe_open(path, framework="pt") as file:
                tree = json.loads(file.metadata()[_TREE])
                # copies: otherwise a scale that is kept would keep all of its file mapped
                stored = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118  (no mapping)
                how = {name: Packing(*each) for name, each in json.loads(file.metadata()[_PACKED]).items()}
            tensors = {name: unpacked(each, how[name]) if name in how else each for name, each in stored.items()}
            value = decoded(tree, tensors)
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, ValueError, TypeError, LookupError, AttributeError, ImportError):
            return None  # damaged, or not ours: made again
        self._remember(path, value, tensors)
        return value

    def _write(self, path: Path, kind: str, value: Any) -> None:
        encoder = Encoder()
        tree = encoder.tree(value)
        stored = {name: packed(tensor) for name, tensor in encoder.tensors.items()}
        how = {name: each for name, (_, each) in stored.items() if each is not None}
        told = {_TREE: json.dumps(tree), _KIND: kind, _ABOUT: self.about, _PACKED: json.dumps(how)}
        tensors = {name: tensor for name, (tensor, _) in stored.items()}
        self._place(path, lambda unfinished: save_file(tensors, unfinished, told))
        self._remember(path, decoded(tree, encoder.tensors), encoder.tensors)

    def _place(self, path: Path, write: Callable[[Path], object]) -> None:
        """Give a file its name when it is complete."""
        unfinished = None
        try:
            with writing(self.folder):
                path.parent.mkdir(exist_ok=True)
                handle, name = tempfile.mkstemp(_UNFINISHED, dir=path.parent)
                os.close(handle)
                unfinished = Path(name)
                write(unfinished)
                unfinished.replace(path)
        finally:
            if unfinished is not None:
                unfinished.unlink(missing_ok=True)

    def _remember(self, path: Path, value: Any, tensors: dict[str, Tensor]) -> None:
        self._memory[path] = value, sum(tensor.nbytes for tensor in tensors.values())
        while self._memory and sum(size for _, size in self._memory.values()) > _IN_MEMORY:
            self._memory.popitem(last=False)

    def entries(self) -> Iterator[Entry]:
        """All of them, in no order; a file that cannot be read is one of no kind."""
        for path in self.folder.glob(f"??/*{_SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):
                status, told = path.stat(), dict[str, str]()
                with contextlib.suppress(OSError, SafetensorError), safe_open(path, framework="pt") as file:
                    told = file.metadata() or {}
                yield Entry(path, told.get(_KIND, ""), told.get(_ABOUT, ""), status.st_size, status.st_mtime)

    def trim(self, most_bytes: int | None = None) -> int:
        """Drop what was not used for longest until there are no more bytes than that, or than usual; how many went.

        What may be of a run that is going on stays.

        Raises:
            CacheError: the disk does not let go of it.

        """
        going = earliest(self.folder)
        for path in (*self.folder.glob(f"??/*{_UNFINISHED}"), *self.folder.glob(f"*{_UNFINISHED}")):
            with contextlib.suppress(FileNotFoundError):
                begun = path.stat().st_mtime
                if begun < going and (most_bytes == 0 or time.time() - begun > _STALE_SECONDS):
                    shutil.rmtree(path, ignore_errors=True) if path.is_dir() else self._drop(path)
        held = []
        for path in self.folder.glob(f"??/*{_SUFFIX}"):
            with contextlib.suppress(FileNotFoundError):
                status = path.stat()
                held.append((status.st_mtime, status.st_size, path))
        most = self.most_bytes if most_bytes is None else most_bytes
        total = sum(size for _, size, _ in held)
        dropped = 0
        for used, size, path in sorted(held):
            if total <= most or used >= going:
                break
            self._drop(path)
            total, dropped = total - size, dropped + size
        return dropped

    def _drop(self, path: Path) -> None:
        with writing(self.folder):
            path.unlink(missing_ok=True)


@dataclass(frozen=True)
class Kept(Generic[T]):
    """A value in a store."""

    store: Store
    path: Path

    def load(self) -> T:
        """The value.

        Raises:
            CacheError: somebody removed it.

        """
        found: T = self.store.load(self.path)
        return found


def opened(about: str = "") -> Store:
    """The store of this user: the folder that the environment names, else the usual place of caches.

    Raises:
        CacheError: it cannot be made, or the environment says no size.

    """
    said = os.environ.get(BOUND) or str(_USUAL_BOUND)
    try:
        most = float(said)
    except ValueError:
        most = -1.0
    if not 0 <= most < float("inf"):
        raise CacheError(f"{BOUND}={said} is no number of gigabytes; give for example {BOUND}=10")
    return Store(usual(), int(most * 1e9), about)


@cache
def _code() -> str:
    """A hash of the code whose results these are, by which every version has its own entries."""
    found = hashlib.sha256()
    root = Path(__file__).parents[1]
    for folder in (root, root.parent / "calibration"):
        for path in sorted(folder.rglob("*.py")):
            found.update(path.read_bytes())
    return found.hexdigest()
