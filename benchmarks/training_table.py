"""The table of the training benchmark: mean and spread over seeds, and every run that went wrong."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import runs
from training_loop import EXTRA, FINE_TUNED, FP32, PEAK, Result

from ptq.training import RECIPES

Row = tuple[str, bool]
"""A recipe, and whether it is for all layers."""

FINDINGS: Final = "## What of the papers' claims holds here"
"""The heading of what is written by hand."""

_LAYERS: Final = {False: "all but first and last", True: "all"}


def notes(steps: Mapping[str, int]) -> str:
    """What a reader has to know of the figures."""
    budgets = ", ".join(f"{count} steps of {task}" for task, count in steps.items())
    return f"""\
Every run has the same budget ({budgets}) and, by seed,
the same first weights and the same data in the same order; only the recipe is another. Figures are means, with the
sample standard deviation over the seeds. A run ends where its loss is no number: it has no score, is not in the mean,
and is counted beside it. As the held-out data is small, a top-1 or a hit ratio is itself known to about one point (1000
digits) or one and a half (943 users).

`{FINE_TUNED}` is fine-tuning as in LUQ's paper (FNT): {100 * EXTRA:.0f} % more steps after the budget, in FP32 but for
the weights, the learning rate up to {100 * PEAK:.0f} % of its peak and down again; no other line has
these steps. All are evaluated as they were trained. `fp8` is without loss scaling, `fp8-loss-scale` with a constant
one.

Layers are `Linear` and `Conv`, first and last in the order of the model: of `lm` the first is the attention's
projection of the first block, of `ratings` the first of the perceptron. Recipes do not reach embeddings, nor the
product of queries and keys; S2FP8's paper truncates these too. Data: `digits` are 5000 MNIST digits (1000 held out)
over photographs, `lm` news by characters, `ratings` MovieLens-100k where the paper has 1M.
"""


def render(results: Iterable[Result], steps: Mapping[str, int]) -> str:
    """A markdown page of the results with these steps of each task."""
    kept = [result for result in results if steps.get(result.plan.task) == result.plan.steps]
    latest = {result.plan: result for result in kept}.values()
    rows = sorted({(result.plan.recipe, result.plan.all_layers) for result in latest}, key=_order)
    cells = {
        (task, row): [each for each in latest if each.plan.task == task and _row(each) == row]
        for task in steps
        for row in rows
    }
    names = {task: _metric(each for each in latest if each.plan.task == task) for task in steps}
    head = ["recipe", "layers", *(f"{task}: {names[task]}" for task in steps)]
    lines = [runs.row([*_name(row), *(_score(cells[task, row]) for task in steps)]) for row in rows]
    more = ["recipe", "layers", *(f"{task}: {what}" for task in steps for what in ("training loss", "of FP32's time"))]
    details = [
        runs.row(
            [
                *_name(row),
                *(cell for task in steps for cell in _details(cells[task, row], cells.get((task, (FP32, False)), []))),
            ]
        )
        for row in rows
    ]
    return "\n".join(
        [
            *("# Training in low bits", "", notes(steps), _made(latest), ""),
            *(runs.head(head), *lines, "", _others(latest)),
            *("Training loss is the mean of the last fiftieth of the budget, time CPU seconds.", ""),
            *(runs.head(more), *details, ""),
        ]
    )


def findings(page: str) -> str:
    """What was written by hand below the tables of a page, to be kept when they are written anew."""
    _, marker, text = page.partition(FINDINGS)
    return f"\n{marker}{text}" if marker else ""


def _row(result: Result) -> Row:
    return result.plan.recipe, result.plan.all_layers


def _order(row: Row) -> tuple[int, str, bool]:
    """FP32, then as in the registry, then what is not there."""
    known = [FP32, *RECIPES]
    base = row[0].removesuffix(FINE_TUNED)
    return known.index(base) if base in known else len(known), row[0], row[1]


def _name(row: Row) -> tuple[str, str]:
    return row[0], "none" if row[0] == FP32 else _LAYERS[row[1]]


def _metric(results: Iterable[Result]) -> str:
    return next((next(iter(result.scores)) for result in results if result.scores), "no score")


def _score(results: Sequence[Result]) -> str:
    """Mean and spread of the scores to compare, and how many runs there are without."""
    if not results:
        return ""
    found = [next(iter(result.scores.values())) for result in results if result.scores]
    bad = len(results) - len(found)
    note = f"NaN in {bad} of {len(results)}" if bad else ""
    return "; ".join(filter(None, [_spread(found), note]))


def _spread(values: Sequence[float]) -> str:
    if not values:
        return ""
    if len(values) == 1:
        return f"{_short(values[0], values[0])} (1 seed)"
    mean = statistics.mean(values)
    return f"{_short(mean, mean)} ± {_short(statistics.stdev(values), mean)}"


def _short(value: float, scale: float) -> str:
    """Percentages to the hundredth, what is smaller to the fourth figure."""
    return f"{value:.{2 if abs(scale) >= 20 else 4}f}"


def _details(results: Sequence[Result], plain: Sequence[Result]) -> tuple[str, str]:
    losses = [result.curve[-1][1] for result in results if result.diverged is None and result.curve]
    done = [result.seconds for result in results if result.diverged is None]
    base = [result.seconds for result in plain]
    times = f"{statistics.mean(done) / statistics.mean(base):.2f}x" if done and base and sum(base) else ""
    return _spread(losses), times


def _made(results: Iterable[Result]) -> str:
    """Days, versions and machines that the figures are from, seeds, and the time of FP32."""
    kept = list(results)
    if not kept:
        return "There are no results yet."
    days = sorted({result.day for result in kept})
    versions = sorted(
        {", ".join(f"{name} {it}" for name, it in result.versions.items() if name != "commit") for result in kept}
    )
    commits = sorted({result.versions["commit"] for result in kept if "commit" in result.versions})
    if commits:
        versions.append(f"commits {', '.join(commits)}")
    machines = sorted({result.machine for result in kept})
    seeds = sorted({result.plan.seed for result in kept})
    plain: dict[str, list[float]] = {}
    for result in kept:
        if result.plan.recipe == FP32:
            plain.setdefault(result.plan.task, []).append(result.seconds)
    times = ", ".join(f"{task} {statistics.mean(seconds):.0f} s" for task, seconds in plain.items())
    span = " to ".join(dict.fromkeys((days[0], days[-1])))
    return (
        f"{span}; {'; '.join(versions)}; {'; '.join(machines)}; one thread; seeds {seeds}; FP32: {times or 'not run'}."
    )


def _others(results: Iterable[Result]) -> str:
    """The scores beside the one to compare, of FP32."""
    found: dict[str, dict[str, list[float]]] = {}
    for result in results:
        if result.plan.recipe == FP32:
            for name, value in list(result.scores.items())[1:]:
                found.setdefault(result.plan.task, {}).setdefault(name, []).append(value)
    said = [f"{task}: {', '.join(f'{name} {_spread(v)}' for name, v in each.items())}" for task, each in found.items()]
    return f"FP32 besides: {'; '.join(said)}.\n" if said else ""
