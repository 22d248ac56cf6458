"""One run at a time for an output, and when the runs that are going on began."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ptq.cache.place import writing
from ptq.errors import OutputError

try:
    import fcntl
except ImportError:  # Windows has other locks; there two runs take turns in overwriting each other
    fcntl = None  # type: ignore[assignment]

_FOLDER = "runs"


@contextmanager
def held(output: Path | None, folder: Path) -> Iterator[None]:
    """Be the only run for an output while this lasts; the system ends it with the process, however that ends.

    Raises:
        OutputError: another run is at it.
        CacheError: the folder cannot be written.

    """
    if fcntl is None:
        yield
        return
    said = f"process {os.getpid()}" if output is None else str(output.absolute())
    path = folder / _FOLDER / hashlib.sha256(os.fsencode(said)).hexdigest()[:32]
    with writing(folder):
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("a+b", buffering=0)
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise OutputError(
                f"another run, process {file.read().decode().strip() or 'unknown'}, is writing {output}; wait for it, "
                f"or give another -o"
            ) from None
        with writing(folder):
            file.truncate(0)
            file.write(f"{os.getpid()}\n".encode())
            os.utime(path)
        yield
        if output is None:
            path.unlink(missing_ok=True)


def earliest(folder: Path) -> float:
    """When the first of the runs began that are going on, this one left out; infinite when there is none."""
    found = [float("inf")]
    for path in (folder / _FOLDER).glob("*") if fcntl is not None else ():
        try:
            with path.open("r") as file:
                began = os.fstat(file.fileno()).st_mtime  # now, as it may end, and its file be gone, any time
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            found.append(began)
        except OSError:
            continue
    return min(found)
