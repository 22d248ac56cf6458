"""Where the folder of what runs have found out is, and what is said where nothing can be written there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from safetensors import SafetensorError

from ptq.errors import CacheError, PtqError

FOLDER: Final = "PTQ_CACHE"
"""The environment variable that names the folder."""


def usual() -> Path:
    """The folder that the environment names, else the usual place of caches.

    Raises:
        CacheError: there is neither.

    """
    said, shared = os.environ.get(FOLDER), os.environ.get("XDG_CACHE_HOME")
    try:
        return Path(said) if said else Path(shared or Path.home() / ".cache") / "ptq"
    except RuntimeError as error:  # nobody says where this user is at home
        raise CacheError(f"there is no home folder for the cache; name a folder by {FOLDER}") from error


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Write in a folder of a cache.

    Raises:
        CacheError: the disk does not take it.

    """
    try:
        yield
    except PtqError:
        raise
    except (OSError, SafetensorError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise CacheError(
            f"the cache {folder} cannot be written ({reason}); free space, run ptq cache clear, or name another "
            f"folder by {FOLDER}"
        ) from error
