"""What a training step costs in low bits: every recipe, all layers, with and without packing, against FP32.

One thread. Every round takes one step of each in turn, and the ratios to the FP32 step of the same round have medians:
of CPU time, which others on the machine disturb least, and of wall time. Kept bytes are what autograd keeps for the
backward pass besides the parameters, each memory once.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import click
import runs
import torch
from torch import Tensor, nn
from torch.nn import functional

from ptq import training
from ptq.errors import OptionError
from ptq.training import RECIPES, TrainingRecipe

sys.path.insert(0, str(Path(__file__).parents[1] / "examples" / "digits"))
from network import DigitsResNet

NUMBERS = 2**22
"""Of the tensor on which the rounding of gradients is timed by itself."""


class Attention(nn.Module):
    """Four projections, as conversion takes them, and not `nn.MultiheadAttention`, which it leaves alone."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, length, width)`, to the same."""
        split = [part(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in (self.query, self.key, self.value)]
        return self.out(functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2))


class Layer(nn.Module):
    """Of a BERT: normalised after each of its two parts."""

    def __init__(self, width: int, heads: int, inner: int) -> None:
        super().__init__()
        self.attention, self.norm1 = Attention(width, heads), nn.LayerNorm(width)
        self.feed, self.norm2 = (
            nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width)),
            nn.LayerNorm(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        """`(batch, length, width)`, to the same."""
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.feed(x))


class Task(NamedTuple):
    """A network, a batch and what it is to give."""

    network: nn.Module
    x: Tensor
    target: Tensor
    loss: Callable[[Tensor, Tensor], Tensor]


def digits() -> Task:
    """The residual network of examples/digits, 64 images."""
    return Task(DigitsResNet(), torch.randn(64, 1, 28, 28), torch.randint(10, (64,)), functional.cross_entropy)


def encoder() -> Task:
    """As large as MiniLM-L6, without its embeddings, 16 sequences of 128."""
    layers = nn.Sequential(*(Layer(384, 12, 1536) for _ in range(6)))
    return Task(layers, torch.randn(16, 128, 384), torch.randn(16, 128, 384), functional.mse_loss)


def small() -> Task:
    """For a test that this runs."""
    return Task(nn.Linear(8, 8), torch.randn(16, 8), torch.randn(16, 8), functional.mse_loss)


NETWORKS = {"digits": digits, "encoder": encoder, "small": small}


class Trained:
    """A network with its optimizer, and the seconds that its steps took."""

    def __init__(self, task: Callable[[], Task], recipe: TrainingRecipe | None) -> None:
        torch.manual_seed(0)
        self.task = task()
        if recipe is not None:
            training.convert(self.task.network, recipe)
        self.optimizer = torch.optim.SGD(self.task.network.parameters(), lr=1e-3, momentum=0.9)
        self.cpu: list[float] = []
        self.wall: list[float] = []

    def loss(self) -> Tensor:
        """Of the batch, which is always the same."""
        return self.task.loss(self.task.network(self.task.x), self.task.target)

    def step(self) -> None:
        """Forward, backward and optimizer, timed."""
        wall, cpu = time.perf_counter(), time.process_time()
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()
        self.cpu.append(time.process_time() - cpu)
        self.wall.append(time.perf_counter() - wall)

    def kept(self) -> int:
        """Bytes for the backward pass."""
        found: dict[int, Tensor] = {}
        of_parameters = {parameter.untyped_storage().data_ptr() for parameter in self.task.network.parameters()}

        def note(tensor: Tensor) -> Tensor:
            found[tensor.untyped_storage().data_ptr()] = tensor
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            self.loss()
        return sum(t.untyped_storage().nbytes() for place, t in found.items() if place not in of_parameters)


def ratio(mine: Sequence[float], others: Sequence[float]) -> str:
    """The median over rounds."""
    return f"{statistics.median(one / other for one, other in zip(mine, others, strict=True)):.2f}x"


def steps(name: str, chosen: Sequence[TrainingRecipe], rounds: int) -> None:
    """One table."""
    recipes = [replace(recipe, all_layers=True, pack=pack) for recipe in chosen for pack in (False, True)]
    runners = [Trained(NETWORKS[name], recipe) for recipe in (None, *recipes)]
    for number in range(rounds + 1):  # the first one warms up
        for runner in runners:
            runner.step()
            if not number:
                runner.cpu.clear()
                runner.wall.clear()
    plain, least = runners[0], max(runners[0].kept(), 1)
    print(
        runs.head(["network", "recipe", "packed", "CPU ms", "CPU of FP32's", "wall of FP32's", "kept MB", "of FP32's"])
    )
    for runner, recipe in zip(runners, (None, *recipes), strict=True):
        what = ["FP32", ""] if recipe is None else [recipe.name, "yes" if recipe.pack else "no"]
        cpu, wall = ratio(runner.cpu, plain.cpu), ratio(runner.wall, plain.wall)
        kept = runner.kept()
        times = [f"{statistics.median(runner.cpu) * 1e3:.0f}", cpu, wall]
        print(runs.row([name, *what, *times, f"{kept / 1e6:.1f}", f"{kept / least:.2f}x"]))
    print()


def roundings(chosen: Sequence[TrainingRecipe], rounds: int) -> None:
    """The rule of the gradient by itself."""
    torch.manual_seed(0)
    x = torch.randn(NUMBERS).mul_(2).exp_().mul_(torch.randn(NUMBERS))
    out, times = torch.empty_like(x), {"copy": []} | {recipe.name: [] for recipe in chosen}
    ways = {"copy": lambda: out.copy_(x)} | {recipe.name: lambda rule=recipe.gradient: rule(x) for recipe in chosen}
    for number in range(rounds + 1):
        for name, way in ways.items():
            start = time.process_time()
            way()
            if number:
                times[name].append(time.process_time() - start)
    print(runs.head(["gradient of", "CPU ns a number", "of a copy's"]))
    for name, taken in times.items():
        print(runs.row([name, f"{statistics.median(taken) / NUMBERS * 1e9:.2f}", ratio(taken, times["copy"])]))


@click.command()
@click.option("--networks", default="digits,encoder", show_default=True, help="Of: " + ", ".join(NETWORKS))
@click.option("--recipes", default=",".join(RECIPES), show_default=True, help="Training recipes, with commas.")
@click.option("--rounds", type=click.IntRange(1), default=7, show_default=True)
def main(networks: str, recipes: str, rounds: int) -> None:
    """Time training steps and the rounding of gradients."""
    torch.set_num_threads(1)
    names = networks.split(",")
    for name in names:
        if name not in NETWORKS:
            raise click.BadParameter(f"there is no {name!r}; take of {', '.join(NETWORKS)}", param_hint="--networks")
    try:
        chosen = [training.recipes.get(name) for name in recipes.split(",")]
    except OptionError as error:
        raise click.BadParameter(str(error), param_hint="--recipes") from None
    print(runs.headline() + "\n")
    for name in names:
        steps(name, chosen, rounds)
    roundings(chosen, rounds)


if __name__ == "__main__":
    main()
