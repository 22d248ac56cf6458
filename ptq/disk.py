"""What is said where a disk does not take a file, and folders for files that pass."""

from __future__ import annotations

import errno
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ptq.errors import OutputError, PtqError

_AT_FAULT: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO})
"""What is wrong with a disk, whatever is done to files on it."""


@contextmanager
def writing(output: Path | None) -> Iterator[None]:
    """Write an output, or, for None, what passes.

    Raises:
        OutputError: the disk does not take it.

    """
    try:
        yield
    except PtqError:
        raise
    except OSError as error:
        raise _passing_refused(error) if output is None else _refused(output, error) from error


@contextmanager
def passing() -> Iterator[Path]:
    """A folder that goes with all that is in it.

    Raises:
        OutputError: its disk takes no more.

    """
    with writing(None):
        folder = tempfile.TemporaryDirectory(prefix="ptq-", ignore_cleanup_errors=True)
    with folder as name:
        try:
            yield Path(name)
        except PtqError:
            raise
        except OSError as error:
            if error.errno not in _AT_FAULT:
                raise
            raise _passing_refused(error) from error


def check_room(folder: Path, size: int) -> None:
    """See whether a folder that passes takes so many bytes, of what writes there and does not say what went wrong.

    Raises:
        OutputError: it does not.

    """
    with writing(None), tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        left = size
        while left > 0:
            left -= file.write(bytes(min(left, 1 << 20)))


def _refused(path: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write {path}: {error.strerror or error}; free space or name another place")


def _passing_refused(error: OSError) -> OutputError:
    said = error.strerror or str(error)
    place = "" if isinstance(error, FileNotFoundError) else f" in {tempfile.gettempdir()}"
    return OutputError(f"cannot write temporary files{place}: {said}; free space, or name another folder by TMPDIR")
