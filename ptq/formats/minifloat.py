"""Small floats: a sign, an exponent and a mantissa, in as many bits of each as wanted.

The number of a pattern is `(-1)^s 2^(e - bias) 1.m`, and `(-1)^s 2^(1 - bias) 0.m` where the exponent field `e` is 0.
FP8 with a bias of any size (arXiv:2208.09225, section 3; arXiv:2104.07329) is this family, and so are the formats of
the Open Compute Project (OFP8 1.0; Microscaling 1.0, section 5.3) and of Graphcore, "fnuz" (arXiv:2206.02915).
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from enum import Enum
from functools import cached_property
from typing import Final

from ptq.formats import Format

_ONNX: Final = {
    "fp8_e4m3fn": ("FLOAT8E4M3FN", 19),
    "fp8_e4m3fnuz": ("FLOAT8E4M3FNUZ", 19),
    "fp8_e5m2": ("FLOAT8E5M2", 19),
    "fp8_e5m2fnuz": ("FLOAT8E5M2FNUZ", 19),
    "fp4_e2m1": ("FLOAT4E2M1", 23),
    "float16": ("FLOAT16", 6),
}
"""By name: the type, and the first opset that casts it (https://onnx.ai/onnx/operators/onnx__Cast.html)."""


class Special(Enum):
    """Which patterns are no numbers."""

    NONE = "none"
    """All are numbers; 0 has two."""
    NAN = "nan"
    """All ones is NaN, and there are no infinities ("fn")."""
    IEEE = "ieee"
    """The largest exponent is for infinities and NaN."""
    ZERO = "zero"
    """What would be the negative zero is NaN, and there are no infinities ("fnuz")."""


@dataclass(frozen=True)
class FloatFormat(Format):
    """`exponent` and `mantissa` are widths in bits; the bias is an integer or any number, IEEE's when left out."""

    exponent: int
    mantissa: int
    special: Special = Special.NONE
    bias: float | None = None
    signed: bool = True

    @classmethod
    def of(
        cls,
        name: str,
        exponent: int,
        mantissa: int,
        special: Special = Special.NONE,
        *,
        bias: float | None = None,
        signed: bool = True,
    ) -> FloatFormat:
        """A format as wide as its fields."""
        return cls(name, signed + exponent + mantissa, exponent, mantissa, special, bias, signed)

    @cached_property
    def _numbers(self) -> tuple[tuple[float, int], ...]:
        """Numbers and their codes, ascending; 0 has the code 0."""
        sign = 2 ** (self.exponent + self.mantissa)
        finite = [(self._magnitude(code), code) for code in range(sign) if not self._is_special(code)]
        negative = [(-value, sign + code) for value, code in finite if value] if self.signed else []
        return (*reversed(negative), *finite)

    def _magnitude(self, code: int) -> float:
        field, fraction = divmod(code, 2**self.mantissa)
        bias = 2 ** (self.exponent - 1) - 1 if self.bias is None else self.bias
        significand = (field > 0) + fraction / 2**self.mantissa
        return float(significand * math.pow(2, max(field, 1) - bias))

    def _is_special(self, code: int) -> bool:
        if self.special is Special.NAN:
            return code == (1 << self.exponent + self.mantissa) - 1
        return self.special is Special.IEEE and code >> self.mantissa == (1 << self.exponent) - 1

    @cached_property
    def values(self) -> tuple[float, ...]:
        """The finite numbers, ascending; one zero."""
        return tuple(value for value, _ in self._numbers)

    @cached_property
    def codes(self) -> tuple[int, ...]:
        """The bit patterns."""
        return tuple(code for _, code in self._numbers)

    @property
    def has_negative_zero(self) -> bool:
        """Where a sign bit is, unless that pattern is NaN."""
        return self.signed and self.special is not Special.ZERO

    @property
    def onnx(self) -> str | None:
        """The name of ONNX's TensorProto type with these codes; None for those it lacks."""
        return _ONNX.get(self.name, (None, None))[0]

    @property
    def least_opset(self) -> int | None:
        """The first opset in which that type can be cast."""
        return _ONNX.get(self.name, (None, None))[1]


FP8_E5M2: Final = FloatFormat.of("fp8_e5m2", 5, 2, Special.IEEE)

SQUEEZED_EXPONENT: Final = 15
"""The largest magnitude of a squeezed tensor is 2 to this."""


@dataclass(frozen=True)
class SqueezedFormat(Format):
    """S2FP8 for one tensor (arXiv:2001.05674, section 3.2): `sign |y / 2^15|^(1 / alpha)`, with the codes of fp8_e5m2.

    1 is the largest magnitude, that of the tensor its scale: what the paper stores as a shift. The largest three
    numbers of fp8_e5m2 are never reached.
    """

    alpha: float

    @classmethod
    def of(cls, alpha: float) -> SqueezedFormat:
        """For an exponent."""
        return cls("s2fp8", 8, alpha)

    @property
    def own(self) -> bool:
        """Another tensor has another exponent."""
        return True

    @cached_property
    def _numbers(self) -> dict[float, int]:
        """Numbers and their codes, ascending; of those that float32 does not tell apart the one nearest to 0."""
        largest = 2.0**SQUEEZED_EXPONENT
        codes = dict(zip(FP8_E5M2.values, FP8_E5M2.codes, strict=True))
        magnitudes: dict[float, float] = {}
        for value in FP8_E5M2.values:
            if 0 <= value <= largest:
                magnitudes.setdefault(_float32((value / largest) ** (1 / self.alpha)), value)
        negative = {-number: codes[-value] for number, value in reversed(magnitudes.items()) if number}
        return negative | {number: codes[value] for number, value in magnitudes.items()}

    @cached_property
    def values(self) -> tuple[float, ...]:
        """Both signs of every magnitude, and 0."""
        return tuple(self._numbers)

    @cached_property
    def codes(self) -> tuple[int, ...]:
        """Those of fp8_e5m2."""
        return tuple(self._numbers.values())


def _float32(value: float) -> float:
    return float(struct.unpack("f", struct.pack("f", value))[0])


FORMATS: Final = (
    FloatFormat.of("fp8_e4m3fn", 4, 3, Special.NAN),
    FloatFormat.of("fp8_e4m3fnuz", 4, 3, Special.ZERO, bias=8),
    FP8_E5M2,
    FloatFormat.of("fp8_e5m2fnuz", 5, 2, Special.ZERO, bias=16),
    FloatFormat.of("fp8_e3m4", 3, 4, bias=4),
    FloatFormat.of("fp8_e2m5", 2, 5, bias=2),
    FloatFormat.of("fp6_e2m3", 2, 3),
    FloatFormat.of("fp6_e3m2", 3, 2),
    FloatFormat.of("fp4_e2m1", 2, 1),
    FloatFormat.of("luq_fp4", 3, 0, bias=1),
)
"""`fp8_e3m4` and `fp8_e2m5` as in arXiv:2208.09225, without special patterns; `luq_fp4` is [1,3,0] of LUQ."""

FLOAT16: Final = FloatFormat.of("float16", 5, 10, Special.IEEE)
"""For scales only, so it is not among the formats: a table of all its numbers would fill the screen."""
