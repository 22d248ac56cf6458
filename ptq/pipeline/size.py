"""The size of a file, as a user says how large it may be."""

from __future__ import annotations

import re
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from ptq.errors import OptionError

_BYTES: Final = MappingProxyType({"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9})
_OF_FLOAT: Final = "x"
_TEXT: Final = re.compile(rf"(\d+(?:\.\d+)?) ?({'|'.join(_BYTES)}|{_OF_FLOAT})")


@dataclass(frozen=True)
class Size:
    """So many bytes, or so many times the file of the float model."""

    number: float
    unit: str

    @classmethod
    def parse(cls, text: str) -> Size:
        """A size as it is written: "3MB", "750kB", or "0.25x" for a quarter of the float model's file.

        Raises:
            OptionError: it is not written so, or nothing is that small.

        """
        found = _TEXT.fullmatch(text)
        if found is None or not float(found[1]):
            raise OptionError(f"--target-size {text!r} is no size; write for example 3MB, 750kB or 0.25x of FP32")
        return cls(float(found[1]), found[2])

    def bytes(self, of_float: int) -> int:
        """How many bytes a file may have, where that of the float model has `of_float`."""
        return int(self.number * (of_float if self.unit == _OF_FLOAT else _BYTES[self.unit]))
