"""Converted layers against products of the rounded tensors by plain torch, and what conversion leaves alone."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from low_bit_layers import EXACT, network
from torch import Tensor, nn

from ptq import training
from ptq.training.gradients import Aligned, Fixed
from ptq.training.recipes import RECIPES, TrainingRecipe
from ptq.training.sawb import Sawb

LAYERS = {
    "linear": (lambda: nn.Linear(12, 7), (5, 12)),
    "linear of a vector": (lambda: nn.Linear(12, 7), (12,)),
    "linear of a sequence": (lambda: nn.Linear(12, 7, bias=False), (2, 3, 4, 12)),
    "conv1d": (lambda: nn.Conv1d(4, 6, 3, stride=2, padding=1), (3, 4, 11)),
    "conv2d": (lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=(1, 0), bias=False), (3, 4, 9, 8)),
    "conv3d": (lambda: nn.Conv3d(2, 4, 2, dilation=2), (2, 2, 5, 6, 5)),
    "grouped": (lambda: nn.Conv2d(6, 9, 3, groups=3), (2, 6, 7, 7)),
    "depthwise": (lambda: nn.Conv2d(6, 12, 3, padding=1, groups=6), (2, 6, 7, 7)),
    "unbatched": (lambda: nn.Conv2d(4, 6, 3), (4, 9, 8)),
    "same": (lambda: nn.Conv1d(4, 6, 3, padding="same", dilation=3), (3, 4, 20)),
    "valid": (lambda: nn.Conv1d(4, 6, 4, padding="valid"), (3, 4, 20)),
    "reflected": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (2, 4, 6, 6)),
    "circular": (lambda: nn.Conv2d(4, 6, 3, padding=1, padding_mode="circular"), (2, 4, 6, 6)),
}


def layer_and_input(name: str) -> tuple[nn.Module, Tensor]:
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    return make().double(), torch.randn(shape, dtype=torch.float64)


def gradients(layer: nn.Module, x: Tensor, above: Tensor | None = None) -> list[Tensor]:
    """The output, and the gradients of the input and the parameters for one above the output."""
    x = x.detach().requires_grad_()
    y = layer(x)
    if above is None:
        above = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    return [y, *torch.autograd.grad(y, [x, *layer.parameters()], above)]


@pytest.mark.parametrize("name", LAYERS)
def test_all_three_products_are_those_of_the_rounded_tensors(name: str) -> None:
    """By autograd of the plain layer; padding is by numbers of the input, so it can be rounded before or after."""
    layer, x = layer_and_input(name)
    reference = copy.deepcopy(layer)
    reference.weight.data = Sawb()(layer.weight.detach())
    if name in ("reflected", "circular"):  # the padded tensor has other moments
        wide = nn.functional.pad(x, (1, 1, 1, 1), "reflect" if name == "reflected" else "circular")
        step = Sawb().step(wide)
        rounded = (x / step).round().clamp(-7, 7) * step
    elif name == "same":
        step = Sawb().step(nn.functional.pad(x, reference._reversed_padding_repeated_twice))
        rounded = (x / step).round().clamp(-7, 7) * step
    else:
        rounded = Sawb()(x)
    y = reference(rounded)
    above = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape)
    expected = gradients(reference, rounded, EXACT.gradient(above))
    got = gradients(training.convert(layer, EXACT), x)
    assert len(got) == len(expected)
    for one, other in zip(got[:3], expected[:3], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)
    for one in got[3:]:  # of the bias, by the gradient as it is
        torch.testing.assert_close(one, gradients(reference, rounded, above)[3], rtol=1e-12, atol=1e-13)


def test_the_products_of_a_matrix_by_hand() -> None:
    """Sums of few integers: exact, whatever the order."""
    rule = Fixed("int4")
    recipe = TrainingRecipe(name="integers", weight=rule, activation=rule, gradient=rule, all_layers=True)
    layer = nn.Linear(3, 2, bias=False)
    layer.weight.data = torch.tensor([[1.4, -2.6, 9.0], [0.2, 3.5, -1.0]])
    x, above = torch.tensor([[2.2, -8.0, 0.6], [1.0, 1.5, 0.0]]), torch.tensor([[1.2, -0.7], [-3.0, 0.4]])
    y, of_input, of_weight = gradients(training.convert(layer, recipe), x, above)
    assert y.tolist() == [[2 + 21 + 7, -28 - 1], [1 - 6, 8]]
    assert of_input.tolist() == [[1, -7, 8], [-3, 9, -21]]
    assert of_weight.tolist() == [[2 - 3, -7 - 6, 1], [-2, 7, -1]]


def test_numbers_that_are_clipped_have_their_gradient() -> None:
    """Straight through, as in LUQ's published code."""
    layer = training.convert(nn.Linear(64, 1, bias=False), EXACT)
    torch.manual_seed(0)
    x = torch.randn(1, 64)
    x[0, 0] = 9.0
    _, of_input, of_weight = gradients(layer, x)
    assert float(Sawb()(x)[0, 0]) < 8
    assert bool((of_weight.abs()[0, 0] == of_weight.abs().max()).all())
    assert torch.equal(of_input != 0, Sawb()(layer.weight) != 0)


def test_truncation_around_every_product() -> None:
    """S2FP8 and FP8 (arXiv:2001.05674, section 4.1): numbers of the format come out everywhere."""
    layer = training.convert(nn.Conv2d(3, 4, 3, bias=False), "fp8")
    torch.manual_seed(0)
    for tensor in gradients(layer, torch.randn(2, 3, 8, 8)):
        assert torch.equal(tensor, tensor.to(torch.float8_e5m2).float())


def step(model: nn.Module, x: Tensor) -> list[Tensor]:
    model.zero_grad()
    model(x).square().sum().backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


def test_seeds_decide() -> None:
    """The same seed, the same gradients; another seed, others; and no chance in the forward pass."""
    model, x = training.convert(network()), torch.randn(4, 1, 8, 8)
    runs = []
    for seed in (5, 5, 6):
        torch.manual_seed(seed)
        runs.append(step(model, x))
    assert all(torch.equal(one, other) for one, other in zip(runs[0], runs[1], strict=True))
    assert not torch.equal(runs[0][0], runs[2][0])
    model.eval()
    before = torch.get_rng_state()
    assert torch.equal(model(x), model(x))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("samples", [1, 2, 3])
def test_samples_are_for_the_weight_only(samples: int) -> None:
    """The input's gradient is that of the first draw; the weight's that of the mean (SMP)."""
    recipe = replace(RECIPES["luq"], samples=samples, all_layers=True)
    layer = training.convert(nn.Linear(6, 5, bias=False), recipe)
    x, above = torch.randn(4, 6), torch.randn(4, 5)
    torch.manual_seed(1)
    _, of_input, of_weight = gradients(layer, x, above)
    torch.manual_seed(1)
    draws = [Aligned()(above) for _ in range(samples)]
    assert torch.equal(of_input, draws[0] @ Sawb()(layer.weight))
    torch.testing.assert_close(of_weight, torch.stack(draws).mean(0).t() @ Sawb()(x), rtol=1e-6, atol=1e-6)


def test_a_layer_that_needs_no_gradient_of_its_input_or_weight() -> None:
    layer = training.convert(nn.Linear(6, 5), EXACT)
    layer.weight.requires_grad_(False)
    x = torch.randn(4, 6, requires_grad=True)
    layer(x).sum().backward()
    assert layer.weight.grad is None
    assert x.grad is not None


def test_hindsight_remembers_from_step_to_step() -> None:
    recipe = replace(EXACT, gradient=replace(EXACT.gradient, hindsight=0.1))
    layer = training.convert(nn.Linear(2, 1, bias=False), recipe)
    layer.weight.data.fill_(1.0)
    seen = [float(gradients(layer, torch.ones(1, 2), torch.full((1, 1), size))[1][0, 0]) for size in (1.0, 2, 4, 1)]
    assert seen == pytest.approx([1, 1, 1.9, 3.79 / 4])  # aligned to 1, 1, 1.9 and 3.79
    assert "low_bit_running_maximum" not in layer.state_dict()
    assert not gradients(layer, torch.ones(1, 2), torch.full((1, 1), math.inf))[1].isfinite().any()
    assert bool(layer.low_bit_running_maximum.isfinite())


def test_a_second_derivative_is_refused() -> None:
    layer = training.convert(nn.Linear(3, 2), EXACT)
    x = torch.randn(4, 3, requires_grad=True)
    (first,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["linear of a sequence", "depthwise"])
def test_autocast_changes_the_type_of_the_output_and_nothing_else(name: str, dtype: torch.dtype) -> None:
    """As it does with the plain layer, which it leaves in float64."""
    layer, x = layer_and_input(name)
    layer, x = layer.to(dtype), x.to(dtype)
    with torch.autocast("cpu", torch.bfloat16):
        plain = layer(x)
    expected = training.convert(layer, EXACT)(x)
    with torch.autocast("cpu", torch.bfloat16):
        got = layer(x)
        assert got.dtype == plain.dtype
        got.float().sum().backward()
    torch.testing.assert_close(got.to(dtype), expected, rtol=2**-8, atol=2**-8)
    assert layer.weight.grad.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_types(dtype: torch.dtype) -> None:
    """Parameters and gradients keep theirs."""
    layer = training.convert(nn.Conv2d(2, 3, 3), replace(RECIPES["luq"], all_layers=True)).to(dtype)
    x = torch.randn(2, 2, 6, 6).to(dtype)
    for tensor in gradients(layer, x, torch.randn(2, 3, 4, 4).to(dtype)):
        assert tensor.dtype == dtype
        assert bool(tensor.isfinite().all())


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # by Dynamo itself
def test_it_compiles_to_one_graph() -> None:
    """Forward and backward, and with the same numbers drawn."""
    model = training.convert(nn.Sequential(nn.Conv1d(2, 4, 3), nn.Conv1d(4, 4, 3), nn.Linear(6, 3)), "luq-smp2")
    compiled, x = torch.compile(model, backend="aot_eager", fullgraph=True), torch.randn(4, 2, 10)
    torch.manual_seed(0)
    expected = step(model, x)
    torch.manual_seed(0)
    assert all(torch.equal(one, other) for one, other in zip(step(compiled, x), expected, strict=True))
