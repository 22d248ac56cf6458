"""One run of the training benchmark: a task by a recipe from a seed, and what is to be kept of it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import date
from itertools import islice
from pathlib import Path
from typing import Any, Final

import numpy as np
import records
import torch
from torch.optim.lr_scheduler import LambdaLR, LRScheduler
from training_tasks import Task

from ptq import training
from ptq.pipeline.manifest import processor
from ptq.training import recipes

FP32: Final = "fp32"
FINE_TUNED: Final = "+fnt"
"""After the name of a recipe: as many steps as `EXTRA` of the budget follow, in FP32 but for the weights."""
EXTRA: Final = 0.1
PEAK: Final = 0.1
"""Of the fine-tuning, as a part of the learning rate of training."""
WARM_UP: Final = 0.05
CURVE: Final = 50
"""Points of the loss curve, each the mean of the steps since the one before."""


@dataclass(frozen=True)
class Plan:
    """What is run; two runs of one plan come to the same figures on the same machine and versions."""

    task: str
    recipe: str
    all_layers: bool
    """Whether the first and the last layer train in low bits too; false in FP32."""
    seed: int
    steps: int

    @classmethod
    def of(cls, task: Task, recipe: str, seed: int, steps: int, *, all_layers: bool | None = None) -> Plan:
        """The layers are those of the recipe unless `all_layers` says otherwise.

        Raises:
            OptionError: there is no such recipe.

        """
        low = recipe != FP32 and (
            recipes.get(recipe.removesuffix(FINE_TUNED)).all_layers if all_layers is None else all_layers
        )
        return cls(task.name, recipe, low, seed, steps)


@dataclass(frozen=True)
class Result:
    """A line of the file of results."""

    plan: Plan
    scores: Mapping[str, float]
    """By name, the one to compare first; none of a run that diverged."""
    diverged: int | None
    """The step whose loss was no number, where the run ended."""
    curve: tuple[tuple[int, float], ...]
    """Training loss by step."""
    seconds: float
    """Of the CPU, to train; not to read data and to evaluate."""
    extra_steps: int
    versions: Mapping[str, str]
    machine: str
    day: str

    def line(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def parse(cls, line: str) -> Result:
        """Back from JSON."""
        fields: dict[str, Any] = json.loads(line)
        curve = tuple((step, loss) for step, loss in fields.pop("curve"))
        return cls(plan=Plan(**fields.pop("plan")), curve=curve, **fields)


def read(path: Path) -> list[Result]:
    """The results in a file, none if there is no file."""
    return [Result.parse(line) for line in records.lines(path)]


def append(path: Path, result: Result) -> None:
    """One line more."""
    records.append(path, result.line())


def run(task: Task, plan: Plan) -> Result:
    """Train and evaluate on one thread."""
    torch.set_num_threads(1)
    torch.manual_seed(plan.seed)
    network = task.network().train()
    if plan.recipe != FP32:
        recipe = recipes.get(plan.recipe.removesuffix(FINE_TUNED))
        training.convert(network, replace(recipe, all_layers=plan.all_layers))
    loop = _Loop(task, network, task.batches(np.random.default_rng(plan.seed)))
    start = time.process_time()
    loop.go(LambdaLR(loop.optimizer, lambda step: cosine(step, plan.steps)), plan.steps)
    extra = 0
    if plan.recipe.endswith(FINE_TUNED) and loop.diverged is None:
        extra = max(1, round(EXTRA * plan.steps))
        loop.go(training.finetune(network, loop.optimizer, steps=extra, peak=PEAK * task.rate), extra)
    seconds = time.process_time() - start
    scores = {} if loop.diverged is not None else _scores(task, network)
    return Result(
        plan=plan,
        scores=scores,
        diverged=loop.diverged,
        curve=thinned(loop.losses),
        seconds=round(seconds, 2),
        extra_steps=extra,
        versions=records.versions(),
        machine=processor(),
        day=date.today().isoformat(),
    )


class _Loop:
    """Training with an optimizer that goes from one schedule to the next."""

    def __init__(self, task: Task, network: torch.nn.Module, batches: Iterator[tuple[torch.Tensor, ...]]) -> None:
        self.task, self.network, self.batches = task, network, batches
        self.optimizer = task.optimizer(network)
        self.losses: list[float] = []
        self.diverged: int | None = None

    def go(self, schedule: LRScheduler, steps: int) -> None:
        """Some steps more, up to one whose loss is no number."""
        for batch in islice(self.batches, steps):
            loss = self.task.loss(self.network, batch)
            if not math.isfinite(loss.item()):
                self.diverged = len(self.losses)
                return
            self.losses.append(loss.item())
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            schedule.step()


def cosine(step: int, steps: int) -> float:
    """The learning rate as a part of its peak: up over the first steps, and down to zero."""
    warm = max(1, round(WARM_UP * steps))
    return min(1.0, (step + 1) / warm) * 0.5 * (1 + math.cos(math.pi * min(step, steps) / steps))


def thinned(losses: list[float]) -> tuple[tuple[int, float], ...]:
    """Means of the steps up to each point, in five significant figures."""
    ends = sorted({round(len(losses) * (point + 1) / CURVE) for point in range(CURVE)} - {0})
    means = (np.mean(losses[start:end]) for start, end in zip([0, *ends], ends, strict=False))
    return tuple((end, float(f"{mean:.5g}")) for end, mean in zip(ends, means, strict=True))


def _scores(task: Task, network: torch.nn.Module) -> dict[str, float]:
    """Those that are numbers; one that is not has no place in JSON, and none among the others."""
    network.eval()
    with torch.inference_mode():
        found = task.scores(network)
    return found if all(math.isfinite(score) for score in found.values()) else {}
