"""Write a file whole or not at all, and never over one that the user did not give up."""

from __future__ import annotations

import errno
import glob
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from ptq.disk import writing
from ptq.errors import OutputError

_WITHOUT_LINKS: Final = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS})


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


@contextmanager
def written(contents: Mapping[Path, bytes], *, overwrite: bool) -> Iterator[None]:
    """Write files by way of temporary ones beside them, all of which get their names when the block has ended well.

    Raises:
        OutputError: one exists and may not be overwritten, or a disk does not take it; nothing is left behind.

    """
    temporaries: dict[Path, Path] = {}
    try:
        for path, content in contents.items():
            check_free(path, overwrite=overwrite)
            with (
                writing(path),
                tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file,
            ):
                temporaries[path] = Path(file.name)
                file.write(content)
        yield
        for path, temporary in temporaries.items():
            with writing(path):
                publish(temporary, path, overwrite=overwrite)
    finally:
        for temporary in temporaries.values():
            temporary.unlink(missing_ok=True)


def publish(temporary: Path, path: Path, *, overwrite: bool) -> None:
    """Give a file that is complete its name, in the same folder or on the same disk.

    Raises:
        OSError: the disk does not take it, or the name has come to be taken meanwhile and is not to be overwritten.

    """
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.chmod(0o666 & ~_umask())
    if not overwrite and _linked(temporary, path):
        temporary.unlink()
    else:
        temporary.replace(path)


def _linked(temporary: Path, path: Path) -> bool:
    """Give a file another name, which, unlike a rename, fails where there is one; False where the disk has no links."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in _WITHOUT_LINKS:
            raise
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path) from error
        return False
    return True


def clear(path: Path) -> None:
    """Remove what runs for an output left beside it that were killed; to be called where no other one is going on."""
    left = re.compile(re.escape(f".{path.name}.") + r"[a-z0-9_]{8}")  # as `tempfile` calls them
    for each in path.parent.glob(f".{glob.escape(path.name)}.*"):
        if left.fullmatch(each.name) and each.is_dir():
            shutil.rmtree(each, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
