"""What users name as `package.module:callable`."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ptq.errors import OptionError, first_line, suggest


@contextmanager
def importing_from_here() -> Iterator[None]:
    """Let imports find modules in the working directory, as `python -m` does."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def imported(option: str, specification: str) -> Callable[..., Any]:
    """The function or class that an option names as `package.module:callable`.

    Raises:
        OptionError: it is not written so, cannot be imported, or is not callable.

    """
    module_name, colon, attribute = specification.partition(":")
    if not (colon and module_name and attribute):
        raise OptionError(
            f"{option} {specification!r} is not package.module:callable; write for example networks:lite0"
        )
    with importing_from_here():
        try:
            place: Any = importlib.import_module(module_name)
        except Exception as error:  # the user's module may raise anything
            raise OptionError(
                f"{option} {specification!r}: {module_name} cannot be imported ({first_line(error)}); "
                f"install it, or run where it can be imported"
            ) from error
    for name in attribute.split("."):
        if not hasattr(place, name):
            raise OptionError(f"{option} {specification!r}: no {name!r} in it; {suggest(name, _public(place))}")
        place = getattr(place, name)
    if not callable(place):
        raise OptionError(
            f"{option} {specification!r} is {type(place).__name__}, not callable; name a class or function"
        )
    found: Callable[..., Any] = place
    return found


def _public(place: Any) -> list[str]:
    return [name for name in dir(place) if not name.startswith("_") and callable(getattr(place, name))]
