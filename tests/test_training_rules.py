"""What holds for every recipe in a layer: one graph, and nothing hidden."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from ptq import training
from ptq.training.recipes import RECIPES


def step(model: nn.Module, x: Tensor) -> list[Tensor]:
    model.zero_grad()
    model(x).square().sum().backward()
    return [parameter.grad.clone() for parameter in model.parameters()]


@pytest.mark.filterwarnings("ignore:Dynamo detected a call to a `functools.lru_cache`")
@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # by Dynamo itself
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if "fp8" in name else []) for name in RECIPES]
)
def test_every_recipe_compiles_to_one_graph(name: str) -> None:
    """Forward and backward, and with the same numbers drawn."""
    torch.compiler.reset()  # or a layer is compiled once for every recipe, which Dynamo limits
    torch.manual_seed(0)
    model = training.convert(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3)), name)
    compiled, x = torch.compile(model, backend="aot_eager", fullgraph=True), torch.randn(4, 6)
    torch.manual_seed(0)
    expected = step(model, x)
    torch.manual_seed(0)
    assert all(torch.equal(one, other) for one, other in zip(step(compiled, x), expected, strict=True))


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("broken", [math.inf, math.nan])
def test_what_is_no_number_reaches_the_gradients(name: str, broken: float) -> None:
    """Of the input and of the weight, so that loss scaling sees it."""
    torch.manual_seed(0)
    model = training.convert(nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4), nn.Linear(4, 3)), name)
    y = model(torch.randn(4, 6))
    above = torch.randn(4, 3)
    above[1, 1] = broken
    gradients = torch.autograd.grad(y, [model[0].weight, model[1].weight], above)
    assert all(not bool(gradient.isfinite().all()) for gradient in gradients)
