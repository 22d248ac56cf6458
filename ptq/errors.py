"""Errors that a caller can cause.

Every message names the thing, the constraint and what was got, then, after a semicolon, the fix. Each class
also derives from the builtin that a reader would expect. This module is the lowest layer and imports nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches
from typing import Final

_COLOR: Final = re.compile(r"\x1b\[[0-9;]*m")
_LINE_CHARACTERS: Final = 240
_TORCHSCRIPT: Final = "operation failed in the TorchScript interpreter."  # the reason stands at the end


class PtqError(Exception):
    """Base of everything that a caller can cause; `exit_code` is what the command line exits with."""

    exit_code = 1


class OptionError(PtqError, ValueError):
    """An option that is wrong by itself, or does not go with the others or with the model."""

    exit_code = 2


class UnmetError(OptionError):
    """Bounds that nothing meets of all that was tried; `trials` is the report on that."""

    def __init__(self, message: str, trials: object) -> None:
        super().__init__(message)
        self.trials = trials


class ModelFileError(PtqError, ValueError):
    """A file that does not hold a model that can be read."""


class UntrustedPickleError(ModelFileError):
    """A file whose loading would run code."""


class ModelError(PtqError, ValueError):
    """A model that was read and cannot be processed."""


class DataError(PtqError, ValueError):
    """Data that cannot be read or does not fit the model."""


class OutputError(PtqError, OSError):
    """An output that cannot be written."""


class CacheError(PtqError, OSError):
    """A folder for what runs have found out that cannot be used."""


class DistributedError(PtqError, RuntimeError):
    """Another process that was to work with this one and is not there."""


class UnlikeError(PtqError, ValueError):
    """Processes that were to work on the same thing and do not."""


class AuditError(PtqError, RuntimeError):
    """A written file that does not check, load or run."""


def suggest(name: str, known: Iterable[str]) -> str:
    """The fix for an unknown name: the nearest known one, or all of them."""
    names = sorted(known, key=lambda each: (int(each), "") if each.isdecimal() else (0, each))
    lower = name.lower()
    starting = [each for each in names if lower == each.lower() or each.startswith(f"{lower}_")]
    near = starting[:1] or get_close_matches(name, names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known are {', '.join(names) or 'none'}"


def rounded_up(number: float, digits: int) -> str:
    """A number with so many digits behind the point, such that whoever gives what is shown gives no less."""
    shown = f"{number:.{digits}f}"
    return shown if float(shown) >= number else f"{number + 10.0**-digits:.{digits}f}"


def first_line(error: BaseException) -> str:
    """The type and first line of the error at the root of a chain, cut to a readable length."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in _COLOR.sub("", str(error)).splitlines() if line.strip()]
    told = -1 if lines and lines[0].endswith(_TORCHSCRIPT) else 0
    text = " ".join(lines[told].split()) if lines else ""
    return f"{type(error).__name__}: {text[:_LINE_CHARACTERS]}" if text else type(error).__name__
