"""`ptq quantize`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.help import Long
from cli.options import image_options, model_options, recipe_options, said_options
from cli.reports import Reports, report_options

if TYPE_CHECKING:
    from rich.console import Console

    from calibration.images import ImageOptions
    from cli.progress import Progress
    from ptq.model.capture import CaptureOptions

STRICT_EXIT = 3
_FILE = click.Path(path_type=Path)


_MAIN = (
    "output", "data", "evaluation", "recipe_file", "method", "weights", "group", "bits", "activations", "keep_float",
    "max_drop", "html_file", "json_file", "dry_run", "overwrite", "strict",
)  # fmt: skip


@click.command(cls=Long, main=_MAIN, no_args_is_help=True)
@click.argument("model", type=_FILE)
@click.option("-o", "--output", type=_FILE, help="The file to write; MODEL.FORMAT.onnx if left out.")
@click.option("--data", help="Calibration data: .npz .npy .pt .safetensors, image folder, module:callable.")
@click.option("--eval", "evaluation", help="Data to evaluate on, of the same kinds; labels under 'labels'.")
@click.option("--recipe", "recipe_file", metavar="NAME|FILE", help="A recipe of `ptq recipes`, or one in .toml.")
@recipe_options
@model_options
@image_options
@click.option(
    "--metric", "metrics", multiple=True, metavar="NAME", help="A score by labels: top-1, f1, rmse, module:callable."
)
@click.option("--max-drop", type=float, help="Largest accepted drop in accuracy  [default: 0.02].")
@click.option("--target-size", metavar="SIZE", help="Largest file for auto: 3MB, 750kB, or 0.25x FP32's.")
@click.option("--device", default="cpu", show_default=True, help="Where layers are solved: cpu, cuda, or cuda:1.")
@click.option("--layers", is_flag=True, help="Show the table of layers.")
@click.option("--dry-run", is_flag=True, help="Show the plan, layer by layer, and write no model.")
@report_options
@click.option("--strict", is_flag=True, help="Exit with 3 when there is a warning.")
def quantize(  # noqa: PLR0917  (one parameter per option)
    model: Path,
    output: Path | None,
    data: str | None,
    evaluation: str | None,
    recipe_file: str | None,
    capture: CaptureOptions,
    images: ImageOptions | None,
    metrics: tuple[str, ...],
    max_drop: float | None,
    target_size: str | None,
    device: str,
    layers: bool,  # noqa: FBT001
    dry_run: bool,  # noqa: FBT001
    reports: Reports,
    strict: bool,  # noqa: FBT001
    **options: Any,
) -> int:
    """Quantize MODEL (.onnx, .pt2, .pt, .safetensors) and measure the result.

    ptq quantize model.pt --data calib.npz --eval eval.npz -o model.int4.onnx
    """
    from cli.progress import Progress
    from ptq.pipeline import Job, Size, Stages, assist, preview, run
    from ptq.ranks import ranks
    from ptq.recipe import AUTO, Recipe, asked
    from ptq.report import Report

    recipe = asked(recipe_file, said_options(options))
    kind = recipe.kind if isinstance(recipe, Recipe) else AUTO
    output = output or model.parent / f"{model.stem}.{kind}.onnx"
    if dry_run and reports.html is not None:
        raise click.UsageError("--html is for a model that was quantized; leave out --dry-run, or give --json")
    reports.check([model, data, evaluation], output)
    job = Job(
        model,
        data,
        evaluation,
        None if dry_run else output,
        reports.overwrite,
        capture,
        images,
        metrics,
        max_drop,
        None if target_size is None else Size.parse(target_size),
        device,
    )
    if ranks().rank:
        if not dry_run:
            assist(job, recipe, Stages())
        return 0
    progress = Progress()
    with _showing_trials(progress), progress:
        if dry_run:
            done: object = preview(job, recipe, progress)
            with reports.written(done):
                pass
        else:
            done = run(job, recipe, progress, reports.written).report
    reports.show(done, lambda: _show(done, progress.out, layers=layers))
    return STRICT_EXIT if strict and isinstance(done, Report) and done.warnings else 0


@contextmanager
def _showing_trials(progress: Progress) -> Iterator[None]:
    """Before the error of bounds that nothing meets, show what was tried."""
    from ptq.errors import UnmetError

    try:
        yield
    except UnmetError as error:
        _show(error.trials, progress.out, layers=False)
        raise


def _show(done: object, console: Console, *, layers: bool) -> None:
    from ptq.report import Outline, Report, Trials, render, render_outline, render_trials

    if isinstance(done, Outline):
        render_outline(done, console)
    elif isinstance(done, Trials):
        render_trials(done, console)
    elif isinstance(done, Report):
        render(done, console, layers=layers)
