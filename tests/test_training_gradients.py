"""The rules of the backward pass against papers.md, section 2.10, and the laws of LUQ."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ptq import formats
from ptq.errors import OptionError
from ptq.rounding import Rounding, round_to
from ptq.squeeze import truncate
from ptq.training import recipes
from ptq.training.gradients import Aligned, Alignment, Fixed, Squeezed, remembered
from ptq.training.recipes import RECIPES, TrainingRecipe

X = torch.tensor([1.0, 0.3, 0.011, 0.004, -0.6, -0.0071, 0])
VARIANCES = {
    "luq_fp4": [0, 0.01, 5.0875e-5, 4.65e-5, 0.04, 6.05275e-5, 0],
    "luq_fp4_paper": [0, 0.01, 1.47422e-5, 1.525e-5, 0.04, 5.0587e-6, 0],
}
DRAWS = 200_000


def moments_agree(drawn: Tensor, x: Tensor, variance: Tensor) -> None:
    """Means of draws `(draws, n)` within 5 standard errors of `x`, variances within 2 %, and 0 where they are 0."""
    drawn, x = drawn.double(), x.double()
    assert bool(((drawn.mean(0) - x).abs() <= 5 * (variance / len(drawn)).sqrt() + 1e-8).all())
    torch.testing.assert_close((drawn - x).square().mean(0), variance, rtol=0.02, atol=1e-15)


def repeated(rule: Aligned, x: Tensor, draws: int) -> Tensor:
    return rule(x.expand(draws, -1))


@pytest.mark.parametrize("name", VARIANCES)
def test_vector_a(name: str) -> None:
    torch.manual_seed(0)
    drawn = repeated(Aligned(name), X, DRAWS)
    moments_agree(drawn, X, torch.tensor(VARIANCES[name], dtype=torch.float64))
    alpha = 2.0 ** (-6 if name == "luq_fp4" else -7)
    levels = {0.0, *(alpha * 2**power for power in range(8 if name == "luq_fp4_paper" else 7))}
    assert set(drawn.abs().unique().tolist()) <= levels
    assert bool((drawn[:, 0] == 1).all())


@pytest.mark.parametrize("name", VARIANCES)
@pytest.mark.parametrize("alignment", [Alignment.MAXIMUM, Alignment.POWER_ABOVE])
def test_a_lognormal_gradient_has_its_mean_and_variance(name: str, alignment: Alignment) -> None:
    """The sum of a million draws is off by at most 5 sigma, of each sign and of each octave of many."""
    torch.manual_seed(1)
    x = torch.randn(1_000_000).mul(2).exp() * 1e-7 * torch.randn(1_000_000).sign()
    rule = Aligned(name, alignment=alignment)
    got, scale = rule(x).double(), rule.scale(x.abs().max()).double()
    low = torch.where(x.abs() < scale, 0, scale * torch.exp2((x.abs() / scale).log2().floor()))
    high = torch.where(low > 0, 2 * low, scale)
    variance = (x.abs().double() - low) * (high - x.abs().double())
    octave = (x.abs().log2() - x.abs().max().log2()).floor().clamp_min(-12)
    octaves = [chosen for each in octave.unique() if int((chosen := octave == each).sum()) > 1000]
    for chosen in [x > 0, x < 0, *octaves]:
        error = (got - x)[chosen]
        assert abs(float(error.sum())) <= 5 * math.sqrt(float(variance[chosen].sum()))
    of_square = variance * ((high - low).square() - 4 * variance)  # the variance of the squared error of two outcomes
    for chosen in octaves:
        excess = ((got - x).square() - variance)[chosen].sum()
        assert abs(float(excess)) <= 5 * math.sqrt(float(of_square[chosen].sum()))


@pytest.mark.parametrize("samples", [2, 4])
def test_the_mean_of_samples_has_the_variance_over_their_number(samples: int) -> None:
    """SMP."""
    torch.manual_seed(2)
    mean = torch.stack([repeated(Aligned(), X, DRAWS) for _ in range(samples)]).mean(0)
    moments_agree(mean, X, torch.tensor(VARIANCES["luq_fp4"], dtype=torch.float64) / samples)


def test_rounding_to_nearest_and_clipping_are_biased() -> None:
    """The ablations lose what the law above holds."""
    torch.manual_seed(3)
    x = torch.tensor([1.9, 0.4, 0.01, 0.2])  # the top is 1: 1.9 is clipped, alpha = 1/64
    means = {name: repeated(RECIPES[name].gradient, x, DRAWS).mean(0) for name in ("fp4-naive", "fp4-sr", "fp4-sr-su")}
    expected = {"fp4-naive": [1, 0.5, 1 / 64, 0.25], "fp4-sr": [1, 0.4, 1 / 64, 0.2], "fp4-sr-su": [1, 0.4, 0.01, 0.2]}
    for name, mean in means.items():
        torch.testing.assert_close(mean, torch.tensor(expected[name]), rtol=5e-3, atol=0)


def test_four_bits_evenly() -> None:
    torch.manual_seed(4)
    drawn = repeated(Aligned("int4"), X, DRAWS)
    part = (X * 7).double().frac().abs()
    moments_agree(drawn, X, part * (1 - part) / 49)
    assert len(drawn.unique()) <= 15


@pytest.mark.parametrize(
    ("alignment", "tops"),
    [
        (Alignment.MAXIMUM, [1, 1.5, 0.3, 0]),
        (Alignment.POWER_ABOVE, [1, 2, 0.5, 0]),
        (Alignment.POWER_BELOW, [1, 1, 0.25, 0]),
    ],
)
def test_alignments(alignment: Alignment, tops: list[float]) -> None:
    largest = torch.tensor([1, 1.5, 0.3, 0])
    assert torch.equal(alignment.top(largest), torch.tensor(tops))
    assert float(alignment.top(torch.tensor(math.inf))) == math.inf
    assert math.isnan(float(alignment.top(torch.tensor(math.nan))))


def test_vector_d_hindsight() -> None:
    running, trace = torch.tensor(1.0), []
    for largest in [1.0, 2, 4, 2, 2]:
        estimate, following = remembered(running, torch.tensor(largest), 0.1)
        assert estimate == running
        trace.append(float(following))
        running = following
    assert trace == pytest.approx([1.0, 1.9, 3.79, 2.179, 2.0179], rel=1e-6)


def test_hindsight_begins_with_the_first_and_forgets_what_is_no_number() -> None:
    estimate, following = remembered(torch.tensor(-1.0), torch.tensor(3.0), 0.1)
    assert (float(estimate), float(following)) == (3, pytest.approx(3))
    for broken in (math.inf, math.nan):
        estimate, following = remembered(torch.tensor(2.0), torch.tensor(broken), 0.1)
        assert not estimate.isfinite()
        assert float(following) == 2


def test_what_is_above_the_remembered_maximum_is_clipped() -> None:
    assert Aligned()(torch.tensor([4.0, -4.0, 1.0]), torch.tensor(1.0)).tolist() == [1, -1, 1]


RULES = dict.fromkeys(
    rule
    for recipe in RECIPES.values()
    for rule in (recipe.weight, recipe.activation, recipe.gradient, recipe.output, recipe.product)
    if rule is not None
)


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_every_rule_keeps_shape_zeros_and_what_is_no_number(rule: recipes.Rule, dtype: torch.dtype) -> None:
    for zeros in (torch.zeros(3, 4, dtype=dtype), torch.zeros(0, 2, dtype=dtype), torch.zeros((), dtype=dtype)):
        assert torch.equal(rule(zeros), zeros)
        assert rule(zeros).dtype == dtype
    x = torch.randn(8, 6, dtype=dtype).t()
    before = x.clone()
    assert rule(x).shape == x.shape
    assert torch.equal(x, before)
    for broken in (math.inf, -math.inf, math.nan):
        x = torch.tensor([1.0, broken, 0.5], dtype=dtype)
        assert not bool(rule(x)[1].isfinite())
    for size in (1e-30, 1e-42, 1e18):
        x = torch.tensor([size, -size / 2, 0], dtype=dtype)
        assert bool(rule(x).isfinite().all())


def test_the_rules_are_the_formats_and_roundings_of_the_library() -> None:
    x = torch.randn(1000)
    assert torch.equal(Squeezed()(x), truncate(x))
    assert torch.equal(Fixed("fp8_e5m2")(x), x.to(torch.float8_e5m2).float())
    assert torch.equal(Fixed("fp8_e5m2", 2.0**-7)(x), (x * 128).to(torch.float8_e5m2).float() / 128)
    largest = x.abs().max()
    fmt = formats.get("luq_fp4")
    expected = round_to(fmt, x / (largest / 64), Rounding.NEAREST_AWAY) * (largest / 64)
    assert torch.equal(Aligned(rounding=Rounding.NEAREST_AWAY)(x), expected)


def test_recipes() -> None:
    assert recipes.get("luq-smp2").samples == 2
    assert {name for name, recipe in RECIPES.items() if recipe.all_layers} == {"s2fp8", "fp8", "fp8-loss-scale"}
    with pytest.raises(OptionError, match=r"unknown training recipe 'luq-spm2'; did you mean 'luq-smp2'\?"):
        recipes.get("luq-spm2")
    with pytest.raises(OptionError, match="samples of recipe 'mine' must be 1 or more, got 0; set it to 1"):
        TrainingRecipe(name="mine", weight=None, activation=None, gradient=None, samples=0)
