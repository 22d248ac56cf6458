"""`ptq diagnose`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.help import Long
from cli.options import image_options, model_options, recipe_options, said_options
from cli.reports import Reports, report_options

if TYPE_CHECKING:
    from calibration.images import ImageOptions
    from ptq.model.capture import CaptureOptions

_FILE = click.Path(path_type=Path)
_MAIN = (
    "data", "evaluation", "recipe_file", "samples", "method", "weights", "bits", "activations", "keep_float",
    "metrics", "max_drop", "html_file", "json_file", "overwrite",
)  # fmt: skip


@click.command(cls=Long, main=_MAIN, no_args_is_help=True)
@click.argument("model", type=_FILE)
@click.option("--data", help="Calibration data, as for quantize.")
@click.option("--eval", "evaluation", required=True, help="Data to measure on, labels under 'labels'.")
@click.option("--recipe", "recipe_file", metavar="NAME|FILE", help="A recipe of `ptq recipes`, or one in .toml.")
@click.option("--samples", type=click.IntRange(1), default=64, show_default=True, help="To measure each layer on.")
@recipe_options
@click.option("--metric", "metrics", multiple=True, metavar="NAME", help="A score: top-1, rmse, module:callable.")
@click.option("--max-drop", type=float, help="Largest accepted drop in accuracy  [default: 0.02].")
@model_options
@image_options
@report_options
def diagnose(  # noqa: PLR0917  (one parameter per option)
    model: Path,
    data: str | None,
    evaluation: str,
    recipe_file: str | None,
    samples: int,
    metrics: tuple[str, ...],
    max_drop: float | None,
    capture: CaptureOptions,
    images: ImageOptions | None,
    reports: Reports,
    **options: Any,
) -> None:
    """Find the layers of MODEL that cost most when it is quantized, and try what may help.

    ptq diagnose model.onnx --data calib.npz --eval eval.npz --bits 4.1
    """
    from cli.progress import Progress
    from ptq.pipeline import Diagnosed, Job
    from ptq.pipeline import diagnose as run
    from ptq.pipeline.diagnose import single_recipe
    from ptq.recipe import asked
    from ptq.report import render_diagnosis

    recipe = single_recipe(asked(recipe_file, said_options(options)))
    job = Job(model, data, evaluation, capture=capture, images=images, metrics=metrics, max_drop=max_drop)
    reports.check([model, data, evaluation])
    progress = Progress()
    with progress:
        found = run(Diagnosed(job, recipe, samples), progress)
    reports.write(found, lambda: render_diagnosis(found, progress.out))
