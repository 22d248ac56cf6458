"""Write a file whole or not at all, and never over one that the user did not give up."""

from __future__ import annotations

import glob
import os
import re
import shutil
import tempfile
from collections.abc import Iterable
from pathlib import Path

from ptq.errors import OutputError


def check_free(path: Path, *, overwrite: bool) -> None:
    """Refuse early what could not be written at the end.

    Raises:
        OutputError: the file exists and may not be overwritten, or its folder cannot be written to.

    """
    if path.is_dir():
        raise OutputError(f"the output {path} is a directory; name a file in it")
    if path.exists() and not path.is_file():
        raise OutputError(f"the output {path} is no file but a device or a pipe; give another -o")
    if path.is_symlink() and overwrite:
        raise OutputError(
            f"the output {path} is a link, which would be replaced; name the file {path.resolve()} itself"
        )
    if path.exists() and not overwrite:
        raise OutputError(f"the output {path} exists; give another -o, or --overwrite")
    if not path.parent.is_dir():
        raise OutputError(f"the folder {path.parent} of the output does not exist; create it")
    if not os.access(path.parent, os.W_OK):
        raise OutputError(f"the folder {path.parent} of the output is not writable; choose another one")


def check_not_input(path: Path, inputs: Iterable[object]) -> None:
    """Refuse an output that is one of the inputs, by whatever name; inputs that are no files do not matter.

    Raises:
        OutputError: it is.

    """
    for each in inputs:
        if isinstance(each, str | Path) and path.exists() and Path(each).exists() and path.samefile(each):
            raise OutputError(f"the output {path} is the input {each}, which is never modified; give another -o")


def write_atomically(path: Path, content: bytes, *, overwrite: bool) -> None:
    """Write a file by way of a temporary one beside it.

    Raises:
        OutputError: it exists and may not be overwritten, or the disk does not take it; nothing is left behind.

    """
    check_free(path, overwrite=overwrite)
    temporary = None
    try:
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = Path(file.name)
            file.write(content)
        publish(temporary, path, overwrite=overwrite)
    except OSError as error:
        raise refused(path, error) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def publish(temporary: Path, path: Path, *, overwrite: bool) -> None:
    """Give a file that is complete its name, in the same folder or on the same disk.

    Raises:
        OSError: the disk does not take it, or the name has come to be taken meanwhile and is not to be overwritten.

    """
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.chmod(0o666 & ~_umask())
    if overwrite:
        temporary.replace(path)
    else:
        os.link(temporary, path)  # unlike a rename, this fails where there is a file
        temporary.unlink()


def clear(path: Path) -> None:
    """Remove what runs for an output left beside it that were killed; to be called where no other one is going on."""
    left = re.compile(re.escape(f".{path.name}.") + r"[a-z0-9_]{8}")  # as `tempfile` calls them
    for each in path.parent.glob(f".{glob.escape(path.name)}.*"):
        if left.fullmatch(each.name) and each.is_dir():
            shutil.rmtree(each, ignore_errors=True)


def refused(path: Path, error: OSError) -> OutputError:
    """What is said where the disk does not take an output."""
    return OutputError(f"cannot write {path}: {error.strerror or error}; free space or choose another -o")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
