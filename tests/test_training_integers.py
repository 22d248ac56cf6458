"""The fast rounding to integers is `rounding.stochastic`, as far as its docstring says."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from ptq import formats
from ptq.rounding import stochastic
from ptq.training.gradients import Aligned
from ptq.training.integers import stochastic_integers
from ptq.training.powers import UNIFORM_STEP, uniform_like

NAMES = ["int2", "int4", "int8"]


def table(name: str, x: Tensor, uniform: Tensor) -> Tensor:
    """The same by the table."""
    threshold = 1 - UNIFORM_STEP - uniform.double()
    return stochastic(formats.get(name), x.abs(), threshold).copysign(x) + 0.0


def around_the_threshold(x: Tensor, off: int) -> Tensor:
    """The uniform number from which on `x` goes up, or one some steps beside it."""
    part = x.abs().double().frac()
    return (((1 - part) / UNIFORM_STEP).round() + off).clamp(0, 1 / UNIFORM_STEP - 1).mul(UNIFORM_STEP).float()


@pytest.mark.parametrize("low", [1, 2, 6, 64, 126])
def test_every_float_between_two_integers(low: int) -> None:
    x = torch.arange(*torch.tensor([low, low + 1.0]).view(torch.int32).tolist(), dtype=torch.int32).view(torch.float32)
    for off in (-1, 0, 1):
        uniform = around_the_threshold(x, off)
        assert torch.equal(stochastic_integers(formats.get("int8"), x, uniform), table("int8", x, uniform))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sign", [1, -1])
def test_numbers_of_all_sizes(name: str, dtype: torch.dtype, sign: int) -> None:
    torch.manual_seed(0)
    x = sign * torch.empty(200_000).uniform_(1, 1.2 * formats.get(name).max)
    for numbers in (x, sign * uniform_like(x)):
        uniform, same = uniform_like(numbers), numbers.to(dtype)
        assert torch.equal(stochastic_integers(formats.get(name), same, uniform), table(name, same, uniform))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_other_chances_are_off_by_less_than_a_step(dtype: torch.dtype) -> None:
    """Float32 below 1, and all of float64; only the uniform numbers around the threshold matter."""
    torch.manual_seed(1)
    x = torch.rand(100_000, dtype=torch.float64).pow(4).mul(1 if dtype == torch.float32 else 7).to(dtype)
    for off in range(-4, 5):
        uniform = around_the_threshold(x, off)
        differs = stochastic_integers(formats.get("int4"), x, uniform) != table("int4", x, uniform)
        distance = (uniform.double() - (1 - x.double().frac())).abs()
        assert bool((distance[differs] <= UNIFORM_STEP).all())


def test_the_edges() -> None:
    x = torch.tensor([0.0, -0.0, 1, -1, 7, -7, 8, -1e30, float("inf"), -float("inf"), float("nan"), 1e-45, -1e-45])
    expected = torch.tensor([0.0, 0, 1, -1, 7, -7, 7, -7, 7, -7, float("nan"), 0, 0])
    for uniform in (0.0, 0.5, 1 - UNIFORM_STEP):
        got = stochastic_integers(formats.get("int4"), x, torch.full_like(x, uniform))
        assert torch.equal(got.nan_to_num(), expected.nan_to_num())
        assert bool(got[-3].isnan())
        assert not bool(got[got == 0].signbit().any())
    assert stochastic_integers(formats.get("int4"), torch.zeros(0, 3), torch.zeros(0, 3)).shape == (0, 3)


def test_formats_that_are_not_symmetric() -> None:
    x = torch.tensor([-3.0, 15.2, 16, 2])
    assert stochastic_integers(formats.get("uint4"), x, torch.zeros(4)).tolist() == [0, 15, 15, 2]


def test_arguments_that_are_not_contiguous_are_left_alone() -> None:
    x = torch.randn(64, 32).t()
    before = x.clone()
    uniform = uniform_like(x)
    assert torch.equal(stochastic_integers(formats.get("int4"), x, uniform), table("int4", x, uniform))
    assert torch.equal(x, before)


@pytest.mark.parametrize("name", ["int4", "int8"])
def test_the_rule_takes_it(name: str) -> None:
    x = torch.randn(1000)
    torch.manual_seed(2)
    got = Aligned(name)(x)
    torch.manual_seed(2)
    scale = Aligned(name).scale(x.abs().max())
    assert torch.equal(got, stochastic_integers(formats.get(name), x / scale, uniform_like(x)) * scale)
