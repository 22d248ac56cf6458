"""How a weight is stored: the format of its numbers, and which of them share a scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from ptq import formats, registry
from ptq.errors import OptionError
from ptq.fitted import FITTED
from ptq.formats import INT8_MAX, Format, most_steps
from ptq.formats.integer import Integers, IntFormat
from ptq.formats.lloyd import LloydFormat
from ptq.formats.minifloat import FLOAT16
from ptq.vectors import VECTORS, VectorFormat

GROUPS: Final = (16, 32, 64, 128, 256)
"""Sizes of groups that ONNX Runtime has a kernel for."""

ROW, TENSOR = "channel", "tensor"
SHARED: Final = (ROW, TENSOR, *map(str, GROUPS))
"""What a user may say about which weights share a scale."""

UNEVEN: Final = (LloydFormat, VectorFormat)
"""Whole numbers of int8 kernels in uneven steps."""

FLOAT_BITS: Final = 32
_ROW_BITS: Final = 8

_STEPS: Final = tuple(formats.get(name) for name in ("steps16", "steps8", "steps4", "steps2"))


@dataclass(frozen=True)
class Scheme:
    """Numbers of a format times scales.

    With a `group`, as many weights along a row share a scale: that of the row (of the tensor, with `per_tensor`) times
    a factor, a number of the format `factors`. Unless it `clips`, the scale is that of the largest weight.
    """

    format: Format
    group: int | None = None
    factors: Format | None = None
    per_tensor: bool = False
    clips: bool = True

    @property
    def symmetric(self) -> bool:
        """Whether there is no zero point: integers without negative numbers need one."""
        return self.format.min < 0 or not isinstance(self.format, (IntFormat, Integers))

    @property
    def integral(self) -> bool:
        """Whether the factors of groups are whole."""
        return self.factors in _STEPS

    @property
    def limit(self) -> float:
        """The largest magnitude of its numbers, zero point taken off, in steps of the format."""
        return self.format.reach if self.symmetric else (self.format.max - self.format.min) / self.format.step

    @property
    def fits_int8(self) -> bool:
        """Whether a row is one scale times integers that an int8 holds, so that int8 kernels compute with it."""
        most = 1.0
        if self.factors is not None:
            if not self.integral:
                return False
            most = self.factors.max
        return self.limit * most <= INT8_MAX

    @property
    def bits(self) -> float:
        """Bits per weight, the scales of groups and their zero points counted, those of rows not."""
        shared = 0 if self.factors is None else self.factors.bits
        zero = 0 if self.symmetric else self.format.bits
        return self.format.bits + (shared + zero) / self.group if self.group else float(self.format.bits)

    def stored_bits(self, rows: int, columns: int, points: int = 1) -> int:
        """What a weight `(rows, columns)` takes in a file where its rows are not too far apart for scales of 8 bits.

        Several points of a row share its scale.
        """
        groups = -(-columns // self.group) if self.group else 1
        each = (0 if self.factors is None else self.factors.bits) + (0 if self.symmetric else self.format.bits)
        alone = self.per_tensor or not (self.factors is None or self.factors in _STEPS)
        scales = FLOAT_BITS if alone else rows * _ROW_BITS + FLOAT_BITS
        table = FLOAT_BITS << self.format.bits if self.format.own else 0
        more = (points - 1) * (columns + (0 if self.symmetric else groups)) * self.format.bits
        return rows * (self.format.row_bits(columns) + groups * each + more) + scales + (table if points == 1 else 0)

    def short(self, columns: int) -> str:
        """The format and how many of so many columns share a scale, such as "int4/32"."""
        return f"{self.format.name}/{min(self.group, columns)}" if self.group else self.format.name

    def on(self, numbers: Format, most: int) -> Scheme:
        """The same with other numbers; whole factors are as many as keep these up to `most` steps, none if none do."""
        found = replace(self, format=numbers)
        if not self.integral:
            return found
        steps = whole_factors(found.limit, most)
        return replace(found, factors=steps) if steps else replace(found, factors=None, group=None)

    def describe(self) -> str:
        """In a few words, such as "int4 in groups of 32"."""
        shared = f" in groups of {self.group}" if self.group else " per tensor" if self.per_tensor else ""
        return f"{self.format.name}{shared}"


SCHEMES: Final[Mapping[str, Scheme]] = MappingProxyType(
    {
        "mxfp8": Scheme(formats.get("fp8_e4m3fn"), 32, formats.get("e8m0")),
        "mxfp6": Scheme(formats.get("fp6_e2m3"), 32, formats.get("e8m0")),
        "mxfp4": Scheme(formats.get("fp4_e2m1"), 32, formats.get("e8m0")),
        "mxint8": Scheme(formats.get("int8"), 32, formats.get("e8m0")),
        "nvfp4": Scheme(formats.get("fp4_e2m1"), 16, formats.get("fp8_e4m3fn"), per_tensor=True),
    }
)
"""Block formats by name: those of the Open Compute Project (Microscaling 1.0, table 1), and NVIDIA's NVFP4.

The numbers of `mxint8` are whole, where the standard's are 64ths and its scales 64 times ours; -128 is not among them.
"""


def known() -> list[str]:
    """The names that `parse` takes."""
    return [*formats.FORMATS, *VECTORS, *FITTED, *SCHEMES]


def alike(base: Format) -> list[Format]:
    """The formats of its kind, the narrowest first: of vectors up to as long ones, the longest of each width."""
    if isinstance(base, IntFormat):
        ints = (fmt for fmt in formats.FORMATS.values() if isinstance(fmt, IntFormat) and fmt.signed == base.signed)
        return sorted(ints, key=lambda fmt: fmt.bits)
    uneven = (fmt for fmt in (*formats.FORMATS.values(), *VECTORS.values()) if isinstance(fmt, UNEVEN))
    longest = {fmt.bits: fmt for fmt in sorted(uneven, key=lambda fmt: fmt.span) if fmt.span <= base.span}
    return [longest[bits] for bits in sorted(longest)]


def has_own_groups(weights: str) -> bool:
    """Whether what shares a scale follows from the name, so that no group goes with it."""
    return weights in SCHEMES or (weights in FITTED and FITTED[weights].whole)


def parse(weights: str, group: str | None = None, *, integer: bool = False, portable: bool = False) -> Scheme:
    """The scheme of a format or block format by name; `integer` where int8 kernels are to compute with it.

    Raises:
        OptionError: there is no such format, it has groups of its own, or its groups do not fit int8 kernels.

    """
    if weights in SCHEMES:
        if group is not None:
            raise OptionError(f"{weights} has groups of {SCHEMES[weights].group} by itself; leave out --group")
        return SCHEMES[weights]
    if weights in FITTED and FITTED[weights].whole:
        if group not in (None, TENSOR):
            raise OptionError(f"{weights} has one scale a tensor by itself; leave out --group")
        return Scheme(FITTED[weights], per_tensor=True, clips=False)
    fmt = registry.get("format", weights, {**formats.FORMATS, **VECTORS, **FITTED, **dict.fromkeys(SCHEMES)})
    if fmt is None:
        raise AssertionError
    if not fmt.min <= 0 <= fmt.max:
        raise OptionError(f"{weights} has no zero, it is a format of scales; give weights another one")
    if group is None or group == ROW:
        return Scheme(fmt)
    if group == TENSOR:
        return Scheme(fmt, per_tensor=True)
    return _grouped(Scheme(fmt), int(group), integer=integer, most=most_steps(portable=portable))


def _grouped(scheme: Scheme, group: int, *, integer: bool, most: int) -> Scheme:
    if not integer:
        return replace(scheme, group=group, factors=formats.get("ulog8") if scheme.symmetric else FLOAT16)
    steps = whole_factors(scheme.limit, most)
    if steps is None:
        raise OptionError(
            f"groups of {scheme.format.name} do not fit int8 kernels, which take integers up to {most}, "
            f"the factors of the groups included; use --activations none, or leave out --group"
        )
    return replace(scheme, group=group, factors=steps)


def whole_factors(limit: float, most: int) -> Format | None:
    """The most factors for groups of numbers up to `limit` that stay within `most`; None if there are none."""
    return next((steps for steps in _STEPS if limit * steps.max <= most), None)
