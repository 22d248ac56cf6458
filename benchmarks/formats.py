"""Quantize models to every number format and print what came out as one table.

    python benchmarks/formats.py MODEL.onnx --data calib.npz --eval eval.npz --only int8,int4/32,fp8_e4m3fn

Several models take as many --data and --eval, in the same order. Every line is a whole `ptq quantize` in a process of
its own. The formats are those of the registries, with a scale a channel and with groups of 32, and activations are none
and uint8; what a recipe refuses is left out. A line that fails says why on the standard error, and the others go on.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import click
import runs

from ptq import scheme
from ptq.errors import OptionError
from ptq.recipe import NONE, UINT8, Recipe
from ptq.report import Report

ACTIVATIONS = (NONE, UINT8)
GROUP = "32"
COLUMNS = (
    *("model", "weights", "activations", "bits", "MB", "SQNR dB", "top-1 or cosine", "of FP32's time", "load ms"),
    *("runs as", "seconds", "peak GB"),
)
_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@dataclass(frozen=True)
class Combination:
    """Weights as `FORMAT` or `FORMAT/GROUP`, and activations."""

    weights: str
    activations: str

    @classmethod
    def of(cls, weights: str, activations: str, method: str) -> Combination:
        """A combination that a recipe takes.

        Raises:
            OptionError: it does not.

        """
        made = cls(weights, activations)
        Recipe(method=method, weights=made.format, group=made.group, activations=activations)
        return made

    @property
    def format(self) -> str:
        """The format or block format."""
        return self.weights.partition("/")[0]

    @property
    def group(self) -> str | None:
        """How many weights share a scale, None where it is not said."""
        return self.weights.partition("/")[2] or None

    def options(self, method: str) -> list[str]:
        """Those of the command."""
        group = [] if self.group is None else ["--group", self.group]
        return ["--method", method, "--weights", self.format, *group, "--activations", self.activations]


@click.command()
@click.argument("models", nargs=-1, required=True, type=_FILE)
@click.option("--data", multiple=True, required=True, type=_FILE, help="To calibrate on, one for each model.")
@click.option("--eval", "evaluation", multiple=True, required=True, type=_FILE, help="To evaluate on, one for each.")
@click.option("--method", default="rtn", show_default=True)
@click.option("--only", metavar="FORMAT[/GROUP],...", help="These and no others.")
def main(
    models: tuple[Path, ...], data: tuple[Path, ...], evaluation: tuple[Path, ...], method: str, only: str | None
) -> None:
    """Quantize MODELS to every format and print a table."""
    if not len(models) == len(data) == len(evaluation):
        raise click.UsageError(f"{len(models)} models, {len(data)} --data, {len(evaluation)} --eval; give one for each")
    _check_method(method)
    combinations = list(_combinations(method, None if only is None else only.split(",")))
    click.echo(f"{runs.headline()}, --method {method}\n\n{runs.head(COLUMNS)}")
    failed = 0
    for files in zip(models, data, evaluation, strict=True):
        failed += _print_lines(runs.Task(*files), method, combinations)
    if failed:
        raise click.ClickException(f"{failed} of {len(models) * len(combinations)} lines failed; why is said above")


def _combinations(method: str, only: Sequence[str] | None) -> Iterator[Combination]:
    """Those that a recipe takes; of `only` there has to be one for each."""
    names = scheme.known()
    for weights in only or [*names, *(f"{name}/{GROUP}" for name in names)]:
        found, refused = [], []
        for activations in ACTIVATIONS:
            try:
                found.append(Combination.of(weights, activations, method))
            except OptionError as error:
                refused.append(str(error))
        if only and not found:
            raise click.UsageError(refused[0])
        yield from found


def _check_method(method: str) -> None:
    try:
        Recipe(method=method)
    except OptionError as error:
        raise click.UsageError(str(error)) from None


def _print_lines(task: runs.Task, method: str, combinations: Sequence[Combination]) -> int:
    """One line for FP32 and one for each combination; how many of them failed."""
    failed, compared = 0, False
    with tempfile.TemporaryDirectory() as folder:
        for number, each in enumerate(combinations):
            output = Path(folder) / f"{number}.onnx"
            try:
                run = runs.quantize(task, each.options(method), output)
            except runs.FailedError as error:
                click.echo(error.format_message(), err=True)
                click.echo(_line(task, each.weights, each.activations, "failed"))
                failed += 1
                continue
            if not compared:
                click.echo(_float_line(task, run))
                compared = True
            click.echo(_quantized_line(task, each, run))
            output.unlink()
    return failed


def _float_line(task: runs.Task, run: runs.Run) -> str:
    file = run.report.file
    top1 = _percent(runs.scored(run.accuracy, "top-1")[0])
    megabytes, load = f"{file.float_bytes / 1e6:.2f}", f"{1e3 * file.float_load_seconds:.0f}"
    return _line(task, "FP32", "", "32", megabytes, "", top1, _ratio(1.0), load)


def _quantized_line(task: runs.Task, each: Combination, run: runs.Run) -> str:
    report, accuracy, file = run.report, run.accuracy, run.report.file
    cosine = "" if accuracy.cosine is None else f"{accuracy.cosine:.4f}"
    cells = (
        *(f"{report.bits_per_weight:.2f}", f"{file.bytes / 1e6:.2f}"),
        "" if accuracy.sqnr_db is None else f"{accuracy.sqnr_db:.1f}",
        _percent(runs.scored(accuracy, "top-1")[1]) or cosine,
        *(_ratio(file.latency_ratio), f"{1e3 * file.load_seconds:.0f}", _runs_as(report)),
        *(f"{run.quantizing:.1f}", f"{run.peak_bytes / 1e9:.2f}"),
    )
    return _line(task, each.weights, each.activations, *cells)


def _line(task: runs.Task, *cells: str) -> str:
    """Cells from the second on; those that are left out are empty."""
    return runs.row([task.model.stem, *cells, *[""] * (len(COLUMNS) - 1 - len(cells))])


def _percent(fraction: float | None) -> str:
    return "" if fraction is None else f"{100 * fraction:.1f} %"


def _ratio(times: float | None) -> str:
    return "" if times is None else f"{times:.2f}x"


def _runs_as(report: Report) -> str:
    """The kernels of the layers, by how they were meant to compute."""
    counts = Counter((layer.execution, layer.kernel or "unknown") for layer in report.layers)
    found: dict[str, list[str]] = {}
    for (execution, kernel), count in counts.most_common():
        found.setdefault(execution, []).append(f"{count} {kernel}")
    return "; ".join(f"{execution}: {', '.join(kernels)}" for execution, kernels in found.items())


if __name__ == "__main__":
    main()
