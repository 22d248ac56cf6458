"""The fast rounding to powers of two is `rounding.stochastic`, as far as its docstring says."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ptq import formats
from ptq.rounding import Rounding, round_to, stochastic
from ptq.training.powers import HALF, UNIFORM_STEP, are_powers, drawn_powers, stochastic_powers, uniform_like

NAMES = ["luq_fp4", "luq_fp4_paper", "pot4", "pot3", "int2"]


def table(name: str, x: Tensor, uniform: Tensor) -> Tensor:
    """The same by the table."""
    threshold = 1 - UNIFORM_STEP - uniform.double()
    return stochastic(formats.get(name), x.abs(), threshold).copysign(x)


def test_which_formats_are_powers() -> None:
    assert {name for name, fmt in formats.FORMATS.items() if are_powers(fmt)} == set(NAMES)


def test_every_significand_of_an_octave() -> None:
    """All 2^23 of them, with the uniform numbers around the one where the outcome changes."""
    significand = torch.arange(2**23, dtype=torch.int32)
    x = (significand + 0x40000000).view(torch.float32)
    for off in (-1, 0, 1):
        uniform = ((2**23 - significand + off).clamp(0, 2**23 - 1)).float() * UNIFORM_STEP
        got = stochastic_powers(formats.get("luq_fp4"), x, uniform)
        assert torch.equal(got, table("luq_fp4", x, uniform))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("sign", [1, -1])
def test_numbers_of_all_sizes(name: str, sign: int) -> None:
    torch.manual_seed(0)
    x = sign * torch.exp2(torch.empty(200_000).uniform_(0, 8))
    small = sign * uniform_like(x)
    for numbers in (x, small):
        uniform = uniform_like(numbers)
        assert torch.equal(stochastic_powers(formats.get(name), numbers, uniform), table(name, numbers, uniform))


def test_between_the_multiples_below_one_the_chance_is_off_by_less_than_a_step() -> None:
    """For each number only the uniform numbers around the threshold matter; the rest are as the table has them."""
    torch.manual_seed(1)
    x = torch.rand(100_000, dtype=torch.float64).pow(4).float()
    nearest = (1 - x.double()).div(UNIFORM_STEP).round()
    for off in range(-4, 5):
        uniform = ((nearest + off) * UNIFORM_STEP).clamp(0, 1 - UNIFORM_STEP).float()
        got = stochastic_powers(formats.get("luq_fp4"), x, uniform)
        differs = got != table("luq_fp4", x, uniform)
        distance = (uniform.double() - (1 - x.double())).abs()
        assert bool((distance[differs] <= UNIFORM_STEP).all())


def test_the_edges() -> None:
    fmt = formats.get("luq_fp4")
    x = torch.tensor([0.0, -0.0, 1, -1, 64, -64, 65, -1e30, float("inf"), -float("inf"), float("nan"), 1e-45])
    expected = torch.tensor([0.0, -0.0, 1, -1, 64, -64, 64, -64, 64, -64, float("nan"), 0])
    for uniform in (0.0, 0.5, 1 - UNIFORM_STEP):
        got = stochastic_powers(fmt, x, torch.full_like(x, uniform))
        assert torch.equal(got[:-2], expected[:-2])
        assert bool(got[-2].isnan())
        assert got[:2].signbit().tolist() == [False, True]
    assert stochastic_powers(fmt, torch.zeros(0, 3), torch.zeros(0, 3)).shape == (0, 3)


def test_the_uniform_numbers() -> None:
    """Multiples of the step, below 1, from the global generator, contiguous or not."""
    x = torch.zeros(1000, 500).t()
    torch.manual_seed(3)
    drawn = uniform_like(x)
    torch.manual_seed(3)
    assert torch.equal(drawn, uniform_like(x))
    assert drawn.shape == x.shape
    assert bool((drawn / UNIFORM_STEP % 1 == 0).all())
    assert 0 <= float(drawn.min()) < 1e-4
    assert 1 - 1e-4 < float(drawn.max()) < 1
    assert float(drawn.double().mean()) == pytest.approx(0.5, abs=5 / 12**0.5 / 500_000**0.5)


def test_arguments_that_are_not_contiguous_are_left_alone() -> None:
    x = torch.randn(64, 32).t()
    before = x.clone()
    uniform = uniform_like(x)
    got = stochastic_powers(formats.get("luq_fp4"), x, uniform)
    assert torch.equal(got, table("luq_fp4", x, uniform))
    assert torch.equal(x, before)


@pytest.mark.parametrize("shape", [(), (1,), (0, 2), (7, 3), (2**17,), (2**17 + 1,), (3, 5, 2**15)], ids=str)
def test_blocks_change_nothing(shape: tuple[int, ...]) -> None:
    """The numbers of the whole tensor at once, bit by bit, with the same draws, and as many of them."""
    fmt = formats.get("luq_fp4")
    torch.manual_seed(0)
    x, scale = torch.randn(shape).pow(5), torch.tensor(0.37)
    x.view(-1)[2:5] = torch.tensor([0.0, -0.0, math.nan])[: max(x.numel() - 2, 0)]
    for numbers in (x, x.transpose(0, -1) if x.dim() else x):
        torch.manual_seed(1)
        whole = stochastic_powers(fmt, numbers / scale, uniform_like(numbers)) * scale
        following = torch.rand(1)
        torch.manual_seed(1)
        got = drawn_powers(fmt, numbers, scale)
        assert torch.equal(got.nan_to_num(9), whole.nan_to_num(9))
        assert torch.equal(got.signbit(), whole.signbit())
        assert torch.equal(torch.rand(1), following)
        assert got.shape == numbers.shape


def test_threads_change_nothing() -> None:
    x, threads, found = torch.randn(2**18 + 5), torch.get_num_threads(), []
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            torch.manual_seed(0)
            found.append(drawn_powers(formats.get("luq_fp4"), x, x.abs().max() / 64))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.mark.parametrize("name", ["luq_fp4", "luq_fp4_paper"])
def test_one_half_rounds_to_nearest(name: str) -> None:
    """Ties away from zero: RDNP (vector 2.B), as the table has it, below 1 too."""
    fmt = formats.get(name)
    torch.manual_seed(0)
    ties = torch.tensor([0.5, 1.5, 3.0, 6.0, 12.0, 24.0, 48.0, 96.0, 1000.0, 0.0, 1e-42, math.inf, math.nan])
    x = torch.cat([torch.randn(100_000) * 20, ties, -ties, ties.nextafter(torch.tensor(0.0))])
    expected = round_to(fmt, x, Rounding.NEAREST_AWAY)
    torch.testing.assert_close(stochastic_powers(fmt, x, torch.tensor(HALF)), expected, rtol=0, atol=0, equal_nan=True)
