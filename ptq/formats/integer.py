"""Integers: two's complement for weights, unsigned for activations."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

from ptq.formats import Format

_ONNX: Final = {
    (2, True): ("INT2", 25),
    (2, False): ("UINT2", 25),
    (4, True): ("INT4", 21),
    (4, False): ("UINT4", 21),
    (8, True): ("INT8", 10),
    (8, False): ("UINT8", 10),
}
"""Bits and sign: the type and the opset (https://onnx.ai/onnx/operators/onnx__DequantizeLinear.html)."""


@dataclass(frozen=True)
class IntFormat(Format):
    """Consecutive integers; `narrow` leaves out the most negative one, which makes a signed range symmetric."""

    signed: bool = True
    narrow: bool = True

    @cached_property
    def codes(self) -> tuple[int, ...]:
        """The integers themselves."""
        low = -(2 ** (self.bits - 1)) if self.signed else 0
        return tuple(range(low + self.narrow, low + 2**self.bits))

    @cached_property
    def values(self) -> tuple[float, ...]:
        """The integers as floats, ascending."""
        return tuple(float(code) for code in self.codes)

    @property
    def onnx(self) -> str | None:
        """The name of ONNX's TensorProto type with these codes; None for widths it lacks."""
        return _ONNX.get((self.bits, self.signed), (None, None))[0]

    @property
    def least_opset(self) -> int | None:
        """The first opset in which that type can be cast and dequantized."""
        return _ONNX.get((self.bits, self.signed), (None, None))[1]


@dataclass(frozen=True)
class Integers(Format):
    """All integers between two, for computing with: nothing stores them as such."""

    low: int
    high: int

    @classmethod
    def between(cls, low: int, high: int) -> Integers:
        """From `low` to `high`, both included."""
        return cls(f"integers from {low} to {high}", (high - low).bit_length(), low, high)

    @classmethod
    def up_to(cls, limit: int) -> Integers:
        """From `-limit` to `limit`: what the points of a row come to in sum."""
        return cls.between(-limit, limit)

    @cached_property
    def values(self) -> tuple[float, ...]:
        """The integers as floats, ascending."""
        return tuple(map(float, self.codes))

    @cached_property
    def codes(self) -> tuple[int, ...]:
        """The integers themselves."""
        return tuple(range(self.low, self.high + 1))


FORMATS: Final = (
    IntFormat("int2", 2),
    IntFormat("int3", 3),
    IntFormat("int4", 4),
    IntFormat("int5", 5),
    IntFormat("int6", 6),
    IntFormat("int7", 7),
    IntFormat("int8", 8),
    IntFormat("uint2", 2, signed=False, narrow=False),
    IntFormat("uint4", 4, signed=False, narrow=False),
    IntFormat("uint8", 8, signed=False, narrow=False),
)
