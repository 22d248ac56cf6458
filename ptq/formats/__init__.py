"""Number formats: a format is its table of values, and everything else about it follows from that.

A family of formats is a module of this package with a tuple `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from ptq import registry
from ptq.errors import OptionError


@dataclass(frozen=True)
class Format:
    """A set of numbers that `bits` bits hold."""

    name: str
    bits: int

    @property
    def values(self) -> tuple[float, ...]:
        """The numbers, ascending."""
        raise NotImplementedError

    @property
    def codes(self) -> tuple[int, ...]:
        """What is stored for each of `values`; a tie rounds to the neighbour with the even code."""
        raise NotImplementedError

    @property
    def onnx(self) -> str | None:
        """The name of ONNX's TensorProto type with these codes; None when it has none."""
        return None

    @property
    def least_opset(self) -> int | None:
        """The first opset in which that type can be cast and dequantized."""
        return None

    @property
    def max(self) -> float:
        """The largest number."""
        return self.values[-1]

    @property
    def min(self) -> float:
        """The smallest number."""
        return self.values[0]


FORMATS: Final[Mapping[str, Format]] = MappingProxyType(
    {fmt.name: fmt for module in registry.Modules(__name__).values() for fmt in module.FORMATS}
)
"""Every format by name."""


def get(name: str) -> Format:
    """The format of that name.

    Raises:
        OptionError: there is none.

    """
    return registry.get("format", name, FORMATS)


def carrier(fmt: Format) -> Format:
    """The narrowest format with an ONNX type that holds every code of a format: itself, or int4 for int3.

    Raises:
        OptionError: ONNX has no such type.

    """
    if fmt.onnx:
        return fmt
    able = [other for other in FORMATS.values() if other.onnx and set(fmt.codes) <= set(other.codes)]
    if not able:
        raise OptionError(f"ONNX has no type that holds {fmt.name!r}; choose a format that it can store")
    return min(able, key=lambda other: other.bits)
