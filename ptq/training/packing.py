"""What a layer keeps of its rounded tensors for the backward pass: codes in place of floats.

A rounded tensor holds few different numbers. Formats of up to 4 bits take half a byte a number, others one byte, and
the backward pass computes the same floats from them, bit by bit.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple, Protocol

import torch
from torch import Tensor

from ptq import formats
from ptq.errors import OptionError
from ptq.formats import MOST_KEPT, Format
from ptq.rounding import TORCH_TYPES, is_integer_grid
from ptq.squeeze import Stored, restored, stored
from ptq.training.gradients import Fixed, Squeezed
from ptq.training.grids import Grid

_WITH_INFINITIES: Final = "fp8_e5m2"
"""Of these the only one."""


class Layout(NamedTuple):
    """What else it takes to have a tensor back."""

    shape: torch.Size
    stride: tuple[int, ...]
    dtype: torch.dtype


class Packed(NamedTuple):
    """A rounded tensor, what is kept of it, and its layout."""

    rounded: Tensor
    kept: tuple[Tensor, ...]
    layout: Layout


class Packing(Protocol):
    """Rounds a tensor, and gives it back from what it keeps."""

    def pack(self, x: Tensor, step: Tensor | None) -> Packed:
        """By the rule; `step` is that of an activation on a `Grid`, else it is found here."""

    def unpack(self, kept: tuple[Tensor, ...], layout: Layout) -> Tensor:
        """The rounded tensor, with the same strides."""


def pack_nibbles(codes: Tensor) -> Tensor:
    """Two codes below 16 a byte, uint8 of any shape to one dimension: the first half of them in the low bits.

    Halves, and not neighbours: both are contiguous.
    """
    flat = codes.reshape(-1)
    half = (flat.numel() + 1) // 2
    high = torch.nn.functional.pad(flat[half:], (0, flat.numel() % 2))
    return flat[:half].bitwise_or(high.bitwise_left_shift(4))


def unpack_nibbles(packed: Tensor, number: int) -> Tensor:
    """So many codes of `pack_nibbles`, in one dimension."""
    return torch.cat([packed.bitwise_and(15), packed.bitwise_right_shift(4)])[:number]


@lru_cache(MOST_KEPT)
def _table(fmt: Format) -> tuple[Tensor, Tensor]:
    """The numbers by code, a negative zero last where there is one, and the middles between them."""
    values = torch.tensor(fmt.values, dtype=torch.float64)
    zero = torch.tensor([-0.0] if fmt.has_negative_zero else [], dtype=torch.float64)
    return torch.cat([values, zero]), (values[1:] + values[:-1]) / 2


def _codes(fmt: Format, numbers: Tensor) -> Tensor:
    """The place of each number in the format; it may be off by a rounding error."""
    if is_integer_grid(fmt):
        return numbers.sub(fmt.min - 0.5).to(torch.uint8)
    table, middles = _table(fmt)
    found = torch.searchsorted(middles.to(numbers.device), numbers.double())
    if fmt.has_negative_zero:
        found = torch.where((numbers == 0) & numbers.signbit(), len(table) - 1, found)
    return found.to(torch.uint8)


def _numbers(fmt: Format, codes: Tensor, dtype: torch.dtype) -> Tensor:
    if is_integer_grid(fmt):
        return codes.to(dtype).add_(fmt.min)
    return _table(fmt)[0].to(codes.device, dtype)[codes.long()]


def _pack_codes(fmt: Format, rounded: Tensor, scale: Tensor) -> Packed:
    """Codes in the order of memory and the scale, which is NaN where a number is none: codes have no place for it."""
    numbers = rounded / scale
    flat = numbers.as_strided((numbers.numel(),), (1,))  # what an operator gives is dense
    codes = _codes(fmt, flat)
    kept = pack_nibbles(codes) if fmt.bits <= 4 else codes
    return Packed(rounded, (kept, scale + flat.sum() * 0), Layout(numbers.shape, numbers.stride(), rounded.dtype))


def _unpack_codes(fmt: Format, kept: tuple[Tensor, ...], layout: Layout) -> Tensor:
    codes, scale = kept
    flat = unpack_nibbles(codes, layout.shape.numel()) if fmt.bits <= 4 else codes
    return _numbers(fmt, flat, layout.dtype).as_strided(layout.shape, layout.stride).mul_(scale)


@dataclass(frozen=True)
class Steps:
    """Codes of a grid and its step."""

    rule: Grid

    def pack(self, x: Tensor, step: Tensor | None) -> Packed:
        """Half a byte or a byte a number."""
        step = self.rule.step(x) if step is None else step
        return _pack_codes(self.rule.integers, self.rule(x, step), step)

    def unpack(self, kept: tuple[Tensor, ...], layout: Layout) -> Tensor:
        """Multiples of the step."""
        return _unpack_codes(self.rule.integers, kept, layout)


@dataclass(frozen=True)
class Codes:
    """Codes of a format with one scale for all tensors."""

    rule: Fixed

    def pack(self, x: Tensor, step: Tensor | None) -> Packed:  # noqa: ARG002
        """Half a byte or a byte a number."""
        return _pack_codes(formats.get(self.rule.fmt), self.rule(x), x.new_full((), self.rule.scale))

    def unpack(self, kept: tuple[Tensor, ...], layout: Layout) -> Tensor:
        """Multiples of the scale."""
        return _unpack_codes(formats.get(self.rule.fmt), kept, layout)


@dataclass(frozen=True)
class Float8:
    """A format that torch has a type of."""

    rule: Fixed

    def pack(self, x: Tensor, step: Tensor | None) -> Packed:  # noqa: ARG002
        """A byte a number; an infinity is NaN where the format has none."""
        rounded = self.rule(x)
        numbers = rounded / self.rule.scale
        if self.rule.fmt != _WITH_INFINITIES:
            numbers.masked_fill_(numbers.isinf(), torch.nan)  # a cast may saturate them
        kept = numbers.to(TORCH_TYPES[self.rule.fmt])
        return Packed(rounded, (kept,), Layout(rounded.shape, rounded.stride(), rounded.dtype))

    def unpack(self, kept: tuple[Tensor, ...], layout: Layout) -> Tensor:
        """Multiples of the scale."""
        return kept[0].to(layout.dtype).mul_(self.rule.scale)


@dataclass(frozen=True)
class Squeezes:
    """S2FP8 as it is stored: `Y` in FP8 and two numbers (arXiv:2001.05674, section 3.2)."""

    def pack(self, x: Tensor, step: Tensor | None) -> Packed:  # noqa: ARG002
        """A byte a number."""
        made = stored(x)
        kept = (made.y.to(torch.float8_e5m2), made.alpha, made.other)
        return Packed(restored(made).to(x.dtype), kept, Layout(x.shape, x.stride(), x.dtype))

    def unpack(self, kept: tuple[Tensor, ...], layout: Layout) -> Tensor:
        """`X` of `Y`."""
        y, alpha, other = kept
        return restored(Stored(y.to(alpha.dtype), alpha, other)).to(layout.dtype)


def packing(rule: object) -> Packing | None:
    """How to pack what a rule rounds; None where there is no rule, so that all is kept.

    Raises:
        OptionError: there is no way to; the message begins with the rule.

    """
    match rule:
        case None:
            return None
        case Grid() if rule.integers.bits <= 8:
            return Steps(rule)
        case Fixed() if rule.fmt in TORCH_TYPES:
            return Float8(rule)
        case Fixed() if formats.get(rule.fmt).bits <= 8:
            return Codes(rule)
        case Squeezed():
            return Squeezes()
    raise OptionError(f"{rule} has no packed form; leave pack out, or take a Grid, Fixed or Squeezed")
