"""What a model wants to be fed: the contract that data is checked against."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ptq.errors import OptionError

Dimension = int | str | None
"""A fixed size, the name of a free one (equal names must agree), or None for a free one without a name."""

_PATTERN = re.compile(r"(?P<name>[^\[\]]+?)(:(?P<dtype>\w+))?(\[(?P<shape>[^\[\]]*)\])?")


@dataclass(frozen=True)
class InputSpec:
    """One input: its name, numpy dtype and shape; `shape` is None when the rank is unknown."""

    name: str
    dtype: str
    shape: tuple[Dimension, ...] | None

    def __str__(self) -> str:
        """The notation of `parse`, for messages."""
        shape = "" if self.shape is None else f"[{','.join('?' if d is None else str(d) for d in self.shape)}]"
        return f"{self.name}:{self.dtype}{shape}"

    @classmethod
    def parse(cls, text: str) -> InputSpec:
        """An input written as `name:dtype[1,3,224,224]`; dimensions are numbers, names or `?`.

        Raises:
            OptionError: the text does not have that form, or names no numpy dtype.

        """
        import numpy as np

        match = _PATTERN.fullmatch(text.strip())
        if match is None:
            raise OptionError(f"--input {text!r} is not name:dtype[shape]; write for example x:float32[1,3,224,224]")
        dtype = match["dtype"] or "float32"
        try:
            dtype = np.dtype(dtype).name
        except (TypeError, ValueError, SyntaxError):  # names are read as Python
            raise OptionError(
                f"--input {text!r} has the unknown dtype {dtype!r}; use a numpy name like float32"
            ) from None
        parts = match["shape"]
        shape = None if parts is None else tuple(_dimension(part, text) for part in parts.split(",") if part.strip())
        return cls(match["name"].strip(), dtype, shape)


def _dimension(part: str, text: str) -> Dimension:
    part = part.strip()
    if part == "?":
        return None
    if part.isidentifier():
        return part
    if part.isdecimal() and int(part) > 0:
        return int(part)
    raise OptionError(f"--input {text!r} has the dimension {part!r}; write a positive number, a name or ?")
