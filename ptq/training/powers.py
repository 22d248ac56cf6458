"""Stochastic rounding to powers of two in a few passes over float32: LUQ's gradients (arXiv:2112.10769).

`ptq.rounding.stochastic` looks numbers up in the table of a format, in float64. On 0, 1, 2, 4, ... one formula does:

    q = sign(x) low floor(|x| / low + u),   low = 2^floor(log2 |x|), and 1 below 1

From 1 on it is the paper's log-SR, below 1 its stochastic underflow. `low` is the exponent field of the float, so that
there is no logarithm, and the division is exact.

It is odd: what is random is how far from 0 a number goes. For `x` it goes where `stochastic` goes for `|x|` with the
uniform number `1 - 2^-23 - u`, bit by bit, provided that `u` is a multiple of 2^-23 and that `x` is 1 or more in
magnitude, or a multiple of 2^-23. Below 1, other numbers round up with a chance that is off by less than 2^-23.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, lru_cache
from importlib import import_module
from types import ModuleType
from typing import Final

import torch
from torch import Tensor

from ptq.formats import MOST_KEPT, Format

UNIFORM_STEP: Final = 2.0**-23
"""Of the uniform numbers: as fine as a significand, so that chances are exact."""

HALF: Final = 0.5 - 2.0**-25
"""In place of uniform numbers: to nearest, ties away from 0. One half, added to the float below it, would be 1."""

EXPONENT: Final = 0x7F800000
"""The exponent field of a float32; alone it is a power of two."""
_SIGNIFICAND: Final = 2**23 - 1
_ONE: Final = 0x3F800000
"""The bits of 1.0."""

_BLOCK: Final = 2**17
"""How many numbers go through all operators before the next: what they need stays in the cache of a core, and it is
even, as one draw is for two numbers."""


@lru_cache(MOST_KEPT)
def are_powers(fmt: Format) -> bool:
    """Whether the numbers of a format are 0 and both signs of 1, 2, 4, ... up to some power."""
    magnitudes = [value for value in fmt.values if value > 0]
    expected = [2.0**power for power in range(len(magnitudes))]
    return magnitudes == expected and list(fmt.values) == [-value for value in reversed(expected)] + [0.0, *expected]


def uniform_like(x: Tensor) -> Tensor:
    """Multiples of `UNIFORM_STEP` in [0, 1) from torch's global generator, float32, in the shape of `x`."""
    pairs = torch.randint(2**55, ((x.numel() + 1) // 2,), device=x.device)  # a draw for two: bits 0 to 22, 32 to 54
    integers = pairs.view(torch.int32)[: x.numel()].bitwise_and_(_SIGNIFICAND)
    return integers.to(torch.float32).mul_(UNIFORM_STEP).view(x.shape)


def stochastic_powers(fmt: Format, x: Tensor, uniform: Tensor) -> Tensor:
    """Numbers of a format that `are_powers`, for float32 of any shape; `uniform` is of that shape, or one number.

    It saturates, NaN stays NaN, and a zero has the sign of `x`.
    """
    rounded = x.abs().clamp_(max=fmt.max)
    low = rounded.view(torch.int32).bitwise_and(EXPONENT).clamp_(min=_ONE).view(torch.float32)
    return rounded.div_(low).add_(uniform).floor_().mul_(low).copysign_(x)  # floor is many times as fast as trunc


def drawn_powers(fmt: Format, x: Tensor, scale: Tensor) -> Tensor:
    """`stochastic_powers` of `x / scale`, times the scale, by the global generator, in the shape and dtype of `x`."""
    if not torch.compiler.is_compiling():  # which makes one kernel of many operators by itself
        if x.device.type == "cuda" and x.dtype != torch.float64 and (kernels := _kernels()) is not None:
            drawn: Tensor = kernels.drawn(fmt, x, scale)
            return drawn
        if x.device.type == "cpu" and x.dtype == torch.float32 and x.is_contiguous():
            return _in_blocks(fmt, x, scale)
    scaled = x / scale
    return stochastic_powers(fmt, scaled.float(), uniform_like(x)).to(x.dtype).mul_(scale)


@cache
def _kernels() -> ModuleType | None:
    """Those of Triton, where it is installed."""
    try:
        return import_module("ptq.training.triton_kernels")
    except ImportError:
        return None


@torch.no_grad()
def _in_blocks(fmt: Format, x: Tensor, scale: Tensor) -> Tensor:
    """The same, bit by bit, with one pass over memory in place of one for every operator."""
    rounded, size = torch.empty_like(x), min(_BLOCK, x.numel())
    pairs, floats = torch.empty((size + 1) // 2, dtype=torch.int64), torch.empty(size)
    blocks: Iterable[tuple[Tensor, Tensor]] = zip(*(torch.split(t.view(-1), _BLOCK) for t in (x, rounded)), strict=True)
    for block, out in blocks:
        number = block.numel()
        draws = pairs[: (number + 1) // 2].random_()  # the low bits are those of `randint`, which takes longer
        integers = draws.view(torch.int32)[:number].bitwise_and_(_SIGNIFICAND)
        uniform = floats[:number].copy_(integers)
        torch.div(block, scale, out=out).abs_().clamp_(max=fmt.max)
        low = torch.bitwise_and(out.view(torch.int32), EXPONENT, out=integers).clamp_(min=_ONE).view(torch.float32)
        out.div_(low).add_(uniform, alpha=UNIFORM_STEP).floor_().mul_(low).copysign_(block).mul_(scale)
    return rounded
