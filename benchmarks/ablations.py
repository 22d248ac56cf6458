r"""What in multipoint quantization does the work: the ablations of its paper (arXiv:2002.09049), on a model of yours.

    python benchmarks/ablations.py MODEL --data calib.npz --eval eval.npz --bits 4.25 --bits 3.25 \
        --page ablations.md --figure decay

Rows with more points chosen by what they do to the output, against rows drawn at random; against one point and two
everywhere; against outlier channel splitting and against mixed precision in as many bits; and how the error falls with
the number of greedy points. A page gets a table when all of it is known, and those before it stay when one fails.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, Final

import ablation_choices
import ablation_decay
import click
import records
import runs

import ptq
from ptq.errors import OptionError
from ptq.evaluate import Accuracy
from ptq.pipeline.manifest import processor
from ptq.recipe import ACTIVATIONS
from ptq.report import Report

COLUMNS: Final = ("rows or layers", "runs", "bits", "MB", "score", "agreement", "SQNR dB", "of FP32's time")
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_NEW = click.Path(dir_okay=False, path_type=Path)

Options = tuple[tuple[str, Any], ...]


@dataclass(frozen=True)
class _Bench:
    """A model, quantized with other options or another choice of rows; the same options only once."""

    task: runs.Task
    activations: str

    @cache  # noqa: B019  (there is one bench)
    def plain(self, options: Options) -> Report:
        """The report of a run.

        Raises:
            PtqError: it is refused.

        """
        return self._run(options)

    def chosen(self, options: Options, choice: ablation_choices.Choice) -> Report:
        """The same where `choice` says which rows get more points."""
        return self._run(options, choice)

    def _run(self, options: Options, choice: ablation_choices.Choice | None = None) -> Report:
        with nullcontext() if choice is None else ablation_choices.chosen_by(choice):
            found = ptq.quantize(
                self.task.model,
                self.task.data,
                eval_data=self.task.evaluation,
                activations=self.activations,
                **dict(options),
            )
        return found.report


@click.command()
@click.argument("model", type=_FILE)
@click.option("--data", required=True, type=_FILE)
@click.option("--eval", "evaluation", required=True, type=_FILE)
@click.option("--activations", default="uint8", show_default=True, type=click.Choice(ACTIVATIONS))
@click.option("--bits", multiple=True, default=(4.25, 3.25), show_default=True, type=click.FloatRange(2, 8))
@click.option("--seeds", default=3, show_default=True, type=click.IntRange(1), help="Of random choices.")
@click.option("--rows", default=128, show_default=True, type=click.IntRange(1), help="Of a layer, for greedy points.")
@click.option("--only", multiple=True, type=click.Choice(["random", "points", "ocs", "mixed", "decay"]))
@click.option("--page", required=True, type=_NEW, help="Markdown; written anew.")
@click.option("--figure", type=_NEW, help="How errors fall with points, as .png and .svg.")
def main(
    *,
    model: Path,
    data: Path,
    evaluation: Path,
    activations: str,
    bits: tuple[float, ...],
    seeds: int,
    rows: int,
    only: tuple[str, ...],
    page: Path,
    figure: Path | None,
) -> None:
    """Take multipoint quantization of MODEL apart."""
    bench = _Bench(runs.Task(model, data, evaluation), activations)
    commit = records.versions().get("commit", "no commit")
    said = f"{model.name}, {runs.headline()}, {commit}, {processor()}"
    parts: dict[str, Callable[[], list[str]]] = {
        "random": lambda: _at_each(bits, lambda each: _random(bench, each, seeds)),
        "points": lambda: _at_each(bits, lambda each: _everywhere(bench, each)),
        "ocs": lambda: _at_each(bits, lambda each: _splitting(bench, each)),
        "mixed": lambda: _at_each(bits, lambda each: _mixed(bench, each)),
        "decay": lambda: _decay(bench.task, rows, said, figure),
    }
    lines = [f"# What does the work in multipoint: {model.stem}", "", f"{said}; activations {activations}.", ""]
    page.parent.mkdir(parents=True, exist_ok=True)
    for name, part in parts.items():
        if not only or name in only:
            found = [f"## {_TITLES[name]}", "", *part(), ""]
            click.echo("\n".join(found))
            lines += found
            page.write_text("\n".join(lines), encoding="utf-8")


_TITLES: Final = {
    "random": "Which rows get more points",
    "points": "As many points everywhere",
    "ocs": "Against outlier channel splitting",
    "mixed": "Against mixed precision",
    "decay": "The error after n greedy points",
}


def _at_each(bits: Sequence[float], lines: Callable[[float], Iterator[str]]) -> list[str]:
    """A table with a part for each number of bits."""
    return [runs.head(COLUMNS), *(line for each in bits for line in lines(each))]


def _random(bench: _Bench, bits: float, seeds: int) -> Iterator[str]:
    options = _multipoint(bits)
    yield _line(f"{bits:g} bits: by what they do to the output", partial(bench.plain, options))
    for name, choice in (
        ("as many in each layer, drawn at random", ablation_choices.within_layers),
        ("drawn at random from all", ablation_choices.everywhere),
    ):
        yield _line(f"{bits:g} bits: {name}", *(partial(bench.chosen, options, choice(seed)) for seed in range(seeds)))


def _everywhere(bench: _Bench, bits: float) -> Iterator[str]:
    base = _format(bits)
    for points, name in ((1, "one point"), (2, "two points")):
        options = (("weights", base), ("points", points))
        yield _line(f"{name} of {base} everywhere", partial(bench.plain, options))
        if points == 1:
            yield _line(f"{bits:g} bits where they pay", partial(bench.plain, _multipoint(bits)))


def _splitting(bench: _Bench, bits: float) -> Iterator[str]:
    options = (("method", "ocs"), ("weights", _format(bits)), ("bits", bits))
    yield _line(f"{bits:g} bits: ocs, to nearest", partial(bench.plain, options))
    nearest = (*_multipoint(bits), ("rounding", "nearest"))
    yield _line(f"{bits:g} bits: points, to nearest", partial(bench.plain, nearest))
    yield _line(f"{bits:g} bits: points, by hessian", partial(bench.plain, _multipoint(bits)))


def _mixed(bench: _Bench, bits: float) -> Iterator[str]:
    for worth in ("sensitivity", "ompq"):
        options = (("method", "mixed"), ("weights", _format(bits)), ("bits", bits), ("worth", worth))
        yield _line(f"{bits:g} bits: mixed, {worth}", partial(bench.plain, options))
    layers = (*_multipoint(bits), ("per", "layer"))
    yield _line(f"{bits:g} bits: points by layer", partial(bench.plain, layers))
    yield _line(f"{bits:g} bits: points by channel", partial(bench.plain, _multipoint(bits)))


def _decay(task: runs.Task, rows: int, title: str, figure: Path | None) -> list[str]:
    found = [*ablation_decay.of_model(task, rows), *ablation_decay.of_random_rows(rows)]
    if figure is not None:
        ablation_decay.draw(found, title, figure)
    return [
        "Greedy points of exact search; errors are those of outputs as parts of their power, medians over layers, with",
        f"up to {rows} rows of each. The decrease by point is that of a straight line through the logarithms, whose",
        "straightness is R²: 1 is exponential decay. The bound is on the error of the weights.",
        "",
        *ablation_decay.table(found),
    ]


def _multipoint(bits: float) -> Options:
    return (("weights", _format(bits)), ("bits", bits))


def _format(bits: float) -> str:
    """The integers that these bits hold, and what is left is for points."""
    return f"int{int(bits)}"


def _line(name: str, *measured: Callable[[], Report]) -> str:
    """What came out, means and standard deviations where there is more than one run; or why nothing did."""
    try:
        reports = [run() for run in measured]
    except OptionError as error:
        return runs.row([name, "", f"refused: {error}", *[""] * (len(COLUMNS) - 3)])
    accuracies = [each.accuracy for each in reports if each.accuracy is not None]
    score, unit, digits = _score(accuracies[0])
    percents = [100 * each.agreement for each in accuracies if each.agreement is not None]
    decibels = [each.sqnr_db for each in accuracies if each.sqnr_db is not None]
    times = [each.file.latency_ratio for each in reports if each.file.latency_ratio is not None]
    return runs.row(
        [
            *(name, str(len(reports)), _spread([each.bits_per_weight for each in reports], 3)),
            _spread([each.file.bytes / 1e6 for each in reports], 3),
            f"{_spread([score(each) for each in accuracies], digits)} {unit}",
            f"{_spread(percents, 1)} %" if percents else "",
            *(_spread(decibels, 1), _spread(times, 2)),
        ]
    )


def _score(accuracy: Accuracy) -> tuple[Callable[[Accuracy], float], str, int]:
    """What a model is judged by, its unit with what FP32 has, and digits."""

    def number(each: Accuracy, name: str) -> float:
        value = runs.scored(each, name)[1]
        return math.nan if value is None else value

    if (perplexity := runs.scored(accuracy, "perplexity")[0]) is not None:
        return lambda each: number(each, "perplexity"), f"perplexity, FP32 {perplexity:.2f}", 2
    if (top1 := runs.scored(accuracy, "top-1")[0]) is not None:
        return lambda each: 100 * number(each, "top-1"), f"% top-1, FP32 {100 * top1:.1f}", 1
    return lambda each: math.nan if each.cosine is None else each.cosine, "cosine", 4


def _spread(values: Sequence[float], digits: int) -> str:
    """The mean, and the standard deviation where there is one."""
    if not values:
        return ""
    more = f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{more}"


if __name__ == "__main__":
    main()
