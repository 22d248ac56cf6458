"""`drawn_powers` on a GPU: one kernel that reads the gradient once, draws in registers and writes once.

It computes what `ptq.training.powers.stochastic_powers` does, bit by bit for the same uniform numbers. These come from
Philox (doi:10.1145/2063384.2063405), with one key a call out of torch's generator of the device; the counter is the
place in memory. Import it where Triton is.

Its compiler looks annotations up, and allows of globals only what is a constant to it: hence kernels have no types.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ptq.formats import Format

_QUARTER = 1024
"""Numbers that a program takes at a time; Philox gives four words, so it takes four times as many in all."""


@triton.jit
def _words(seed_at, program, quarter: tl.constexpr):
    """Four blocks of 32 random bits."""
    counter = program * quarter + tl.arange(0, quarter)
    return tl.randint4x(tl.load(seed_at), counter)


@triton.jit
def _uniform(words):
    """Multiples of 2^-23 in [0, 1), as `UNIFORM_STEP`."""
    return (words & 0x7FFFFF).to(tl.float32) * 1.1920928955078125e-07


@triton.jit
def _round(  # noqa: PLR0917  (a kernel)
    x_at, out_at, place, size, words, scale, top: tl.constexpr
):
    """`stochastic_powers` of `x / scale`, times the scale; what is 16 bits wide is divided in float32, as by torch."""
    inside = place < size
    loaded = tl.load(x_at + place, mask=inside, other=0.0)
    scaled = tl.div_rn(loaded.to(tl.float32), scale).to(loaded.dtype).to(tl.float32)  # `/` is off by a bit or two
    magnitude = tl.minimum(tl.abs(scaled), top, propagate_nan=tl.PropagateNan.ALL)
    exponent = tl.maximum(magnitude.to(tl.int32, bitcast=True) & 0x7F800000, 0x3F800000)
    low = exponent.to(tl.float32, bitcast=True)
    over = (0x7F000000 - exponent).to(tl.float32, bitcast=True)  # 1 / low, a power of two
    rounded = tl.floor(magnitude * over + _uniform(words)) * low
    signed = tl.where(loaded.to(tl.float32).to(tl.int32, bitcast=True) < 0, -rounded, rounded)
    tl.store(out_at + place, (signed * scale).to(loaded.dtype), mask=inside)


@triton.jit
def _drawn(  # noqa: PLR0917  (a kernel)
    x_at, out_at, scale_at, seed_at, size, top: tl.constexpr, quarter: tl.constexpr
):
    program = tl.program_id(0).to(tl.int64)  # places beyond 2^31 are no problem
    scale = tl.load(scale_at).to(tl.float32)
    one, two, three, four = _words(seed_at, program, quarter)
    place = program * 4 * quarter + tl.arange(0, quarter)
    _round(x_at, out_at, place, size, one, scale, top)
    _round(x_at, out_at, place + quarter, size, two, scale, top)
    _round(x_at, out_at, place + 2 * quarter, size, three, scale, top)
    _round(x_at, out_at, place + 3 * quarter, size, four, scale, top)


@triton.jit
def _drawn_uniform(out_at, seed_at, size, quarter: tl.constexpr):
    program = tl.program_id(0).to(tl.int64)
    one, two, three, four = _words(seed_at, program, quarter)
    place = program * 4 * quarter + tl.arange(0, quarter)
    tl.store(out_at + place, _uniform(one), mask=place < size)
    tl.store(out_at + place + quarter, _uniform(two), mask=place + quarter < size)
    tl.store(out_at + place + 2 * quarter, _uniform(three), mask=place + 2 * quarter < size)
    tl.store(out_at + place + 3 * quarter, _uniform(four), mask=place + 3 * quarter < size)


def drawn(fmt: Format, x: Tensor, scale: Tensor, seed: Tensor | None = None) -> Tensor:
    """`ptq.training.powers.drawn_powers` of float32, bfloat16 or float16; the host does not wait for the device.

    `seed` is an int64 on the device, by default one of its generator.
    """
    out = torch.empty_like(x)
    if out.stride() != x.stride():  # it has gaps, or numbers that share memory
        x = x.contiguous()
        out = torch.empty_like(x)
    if x.numel():
        seed = new_seed(x.device) if seed is None else seed
        with torch.cuda.device_of(x):
            _drawn[_grid(x)](x, out, scale, seed, x.numel(), top=fmt.max, quarter=_QUARTER, enable_fp_fusion=False)
    return out


def uniform(x: Tensor, seed: Tensor) -> Tensor:
    """The uniform numbers that `drawn` takes, of the shape and strides of a dense `x`, float32."""
    out = torch.empty_like(x, dtype=torch.float32)
    with torch.cuda.device_of(x):
        _drawn_uniform[_grid(x)](out, seed, x.numel(), quarter=_QUARTER, enable_fp_fusion=False)
    return out


def new_seed(device: torch.device) -> Tensor:
    """A key for Philox from torch's generator of the device."""
    return torch.randint(2**63 - 1, (), device=device)


def _grid(x: Tensor) -> tuple[int]:
    return (triton.cdiv(x.numel(), 4 * _QUARTER),)
