"""Low-bit layers in what people train with: processes, loss scaling, autocast, checkpoints, optimizers, averages."""

from __future__ import annotations

import copy
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.distributed import destroy_process_group, init_process_group
from torch.nn.functional import mse_loss
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

from ptq import training
from ptq.training.gradients import Aligned
from ptq.training.recipes import RECIPES

HINDSIGHT = replace(RECIPES["luq"], name="luq-hindsight", gradient=Aligned(hindsight=0.1), all_layers=True, pack=True)
EVERYWHERE = {name: replace(recipe, all_layers=True) for name, recipe in [*RECIPES.items(), ("hindsight", HINDSIGHT)]}
SGD = torch.optim.SGD


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Something to learn."""
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(seed))
    return x, x[:, :4] * x[:, 4:8].sign()


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 30, seed: int = 0) -> list[float]:
    losses = []
    x, y = batch(seed)
    for _ in range(steps):
        optimizer.zero_grad()
        loss = mse_loss(model(x).float(), y)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def learns(losses: list[float]) -> bool:
    return math.isfinite(losses[-1]) and losses[-1] < 0.7 * losses[0]


def of_one_rank(rank: int, folder: Path) -> None:
    """A process of the test below."""
    torch.set_num_threads(1)
    init_process_group("gloo", init_method=f"file://{folder / 'store'}", rank=rank, world_size=2)
    model = DistributedDataParallel(training.convert(network(), HINDSIGHT))
    torch.manual_seed(rank)
    losses = train(model, SGD(model.parameters(), lr=0.1, momentum=0.9), seed=rank)
    gradients = [parameter.grad for parameter in model.parameters()]
    own = dict(copy.deepcopy(model.module).named_buffers())
    model.eval()(batch()[0])  # every forward pass begins with the buffers of rank 0
    found = {"losses": losses, "gradients": gradients, "own": own, "buffers": dict(model.module.named_buffers())}
    torch.save(found | {"weights": list(model.parameters())}, folder / f"{rank}.pt")
    destroy_process_group()


@pytest.mark.slow
def test_two_processes(tmp_path: Path) -> None:
    """Each draws for its own batch, and both have the same gradients, weights and, at every forward pass, buffers."""
    torch.multiprocessing.spawn(of_one_rank, (tmp_path,), nprocs=2)
    one, other = (torch.load(tmp_path / f"{rank}.pt") for rank in range(2))
    assert learns(one["losses"])
    assert learns(other["losses"])
    for kind in ("gradients", "weights"):
        assert all(torch.equal(a, b) for a, b in zip(one[kind], other[kind], strict=True))
    assert len(one["buffers"]) == 2 * 3
    assert one["buffers"] == other["buffers"] == one["own"] != other["own"]
    assert all(float(buffer) > 0 for buffer in one["buffers"].values())


@pytest.mark.parametrize("name", EVERYWHERE)
def test_a_step_that_overflows_is_skipped(name: str) -> None:
    """The infinite gradient is seen below the low-bit layers, and the next steps are taken."""
    model = training.convert(network(), EVERYWHERE[name])
    optimizer, scaler = SGD(model.parameters(), lr=0.1), torch.amp.GradScaler("cpu", init_scale=2.0**14)
    x, y = batch()
    for inflated in (1.0, math.inf, 1.0):
        before = copy.deepcopy(model.state_dict())
        scale = scaler.get_scale()
        optimizer.zero_grad()
        scaler.scale(mse_loss(model(x), y) * inflated).backward()
        scaler.unscale_(optimizer)
        assert bool(model[0].weight.grad.isfinite().all()) == (inflated == 1)
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(model[0].weight, before["0.weight"]) == (inflated != 1)
        assert scaler.get_scale() == scale * (1 if inflated == 1 else 0.5)


@pytest.mark.parametrize("name", ["luq", "hindsight", "s2fp8", "fp8"])
def test_a_loop_in_autocast(name: str) -> None:
    model = training.convert(network(), EVERYWHERE[name])
    optimizer, losses, (x, y) = SGD(model.parameters(), lr=0.1, momentum=0.9), [], batch()
    for _ in range(30):
        optimizer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16):
            out = model(x)
            loss = mse_loss(out.float(), y)
        assert out.dtype == torch.bfloat16
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert learns(losses)
    assert model[2].weight.grad.dtype == torch.float32


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("name", EVERYWHERE)
def test_activations_computed_again(name: str, reentrant: bool) -> None:
    """The same gradients, from the same draws."""
    model, (x, y) = training.convert(network(), EVERYWHERE[name]), batch()
    found = []
    for again in (False, True):
        copied, inputs = copy.deepcopy(model), x.clone().requires_grad_()
        torch.manual_seed(1)
        run = (lambda part, x: checkpoint(part, x, use_reentrant=reentrant)) if again else (lambda part, x: part(x))
        mse_loss(run(copied[3:], run(copied[:3], inputs)), y).backward()
        found.append([inputs.grad, *(parameter.grad for parameter in copied.parameters())])
    assert all(torch.equal(one, other) for one, other in zip(*found, strict=True))


def test_gradients_add_up() -> None:
    """Over batches, each with its own maximum and draws."""
    model, batches = training.convert(network(), "luq"), [batch(seed) for seed in range(3)]
    torch.manual_seed(1)
    for x, y in batches:
        mse_loss(model(x), y).backward()
    added = [parameter.grad.clone() for parameter in model.parameters()]
    torch.manual_seed(1)
    parts = [torch.autograd.grad(mse_loss(model(x), y), list(model.parameters())) for x, y in batches]
    for one, each in zip(added, zip(*parts, strict=True), strict=True):
        torch.testing.assert_close(one, sum(each), rtol=1e-6, atol=1e-7)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "SGD": lambda parameters, **kw: SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-4, **kw),
    "Nesterov": lambda parameters, **kw: SGD(parameters, lr=0.1, momentum=0.9, nesterov=True, **kw),
    "AdamW": lambda parameters, **kw: torch.optim.AdamW(parameters, lr=1e-2, **kw),
    "RMSprop": lambda parameters, **kw: torch.optim.RMSprop(parameters, lr=1e-3, **kw),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("recipe", ["luq", "s2fp8"])
def test_optimizers(name: str, recipe: str) -> None:
    """They learn, by one tensor or all at once, and the same either way."""
    weights = []
    for foreach in (False, True):
        model = training.convert(network(), EVERYWHERE[recipe])
        optimizer = OPTIMIZERS[name](model.parameters(), foreach=foreach)
        torch.manual_seed(1)
        assert learns(train(model, optimizer))
        weights.append(model[0].weight)
    torch.testing.assert_close(*weights)


def test_a_model_converted_while_its_optimizer_runs() -> None:
    """Its moments go on, into low bits and back."""
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    plain = train(model, optimizer, 5)
    low = train(training.convert(model, "luq"), optimizer, 20)
    back = train(training.restore(model), optimizer, 5)
    assert plain[0] > low[0] > low[-1] > 0.9 * back[-1]
    assert {int(state["step"]) for state in optimizer.state.values()} == {30}


def test_a_moving_average_of_the_weights() -> None:
    """In low bits as the model, with its remembered steps."""
    model, x = training.convert(network(), HINDSIGHT), batch()[0]
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.5))
    optimizer = SGD(model.parameters(), lr=0.1)
    for _ in range(60):
        train(model, optimizer, 1)
        average.update_parameters(model)
    layers, own = training.low_bit_layers(average), training.low_bit_layers(model)
    assert list(layers) == [f"module.{name}" for name in own]
    for layer, other in zip(layers.values(), own.values(), strict=True):
        assert layer is not other
        assert torch.equal(layer.low_bit_step, other.low_bit_step)
        assert float(layer.low_bit_step) > 0
    assert not torch.equal(average.eval()(x), model.eval()(x))
    assert mse_loss(average(x), batch()[1]) < 1


def test_a_copy_trains_by_itself() -> None:
    model = training.convert(network(), HINDSIGHT)
    train(model, SGD(model.parameters(), lr=0.1), 2)
    copied, before = copy.deepcopy(model), copy.deepcopy(dict(model.named_buffers()))
    assert learns(train(copied, SGD(copied.parameters(), lr=0.1, momentum=0.9)))
    assert dict(model.named_buffers()) == before != dict(copied.named_buffers())
    assert all(parameter is not other for parameter, other in zip(model.parameters(), copied.parameters(), strict=True))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="Inductor needs a C++ compiler; install g++")
@pytest.mark.filterwarnings("ignore")  # of Dynamo and Inductor, which are many and of versions
@pytest.mark.parametrize("name", ["luq", "hindsight", "s2fp8", "fp8"])
def test_inductor(name: str) -> None:
    """It learns, and begins with the loss that it has without."""
    model = training.convert(network(), EVERYWHERE[name])
    plain = copy.deepcopy(model)
    torch._dynamo.reset()
    compiled = torch.compile(model, fullgraph=True)
    losses = train(compiled, SGD(model.parameters(), lr=0.1, momentum=0.9))
    assert learns(losses)
    assert losses[0] == pytest.approx(train(plain, SGD(plain.parameters(), lr=0.1), 1)[0], rel=1e-3)
