"""`ptq sweep`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.help import Long
from cli.options import grid_options, image_options, measuring_options, model_options, said_options
from cli.reports import Reports, report_options

if TYPE_CHECKING:
    from calibration.images import ImageOptions
    from ptq.model.capture import CaptureOptions

_FILE = click.Path(path_type=Path)


_MAIN = (
    "output", "data", "evaluation", "methods", "bits", "weights", "activations", "metrics", "max_drop", "threads",
    "html_file", "json_file", "overwrite",
)  # fmt: skip


@click.command(cls=Long, main=_MAIN, no_args_is_help=True)
@click.argument("model", type=_FILE)
@click.option("-o", "--output", type=_FILE, help="The folder for the files; MODEL.sweep if left out.")
@click.option("--data", help="Calibration data, as for quantize.")
@click.option("--eval", "evaluation", required=True, help="Data to compare on, labels under 'labels'.")
@click.option("--methods", default="multipoint", show_default=True, help="With commas: multipoint,mixed,gptq.")
@click.option("--bits", default="3:5:0.25", show_default=True, help="Per weight: 3,4.25,8, or first:last:step.")
@grid_options
@measuring_options
@model_options
@image_options
@report_options
def sweep(  # noqa: PLR0917  (one parameter per option)
    model: Path,
    output: Path | None,
    data: str | None,
    evaluation: str,
    methods: str,
    bits: str,
    measuring: dict[str, Any],
    capture: CaptureOptions,
    images: ImageOptions | None,
    reports: Reports,
    **options: Any,
) -> int:
    """Quantize MODEL by several methods at several sizes, and compare what comes out.

    ptq sweep model.onnx --data calib.npz --eval eval.npz --methods multipoint,gptq --bits 3:5:0.5 --html sweep.html

    A run that ended early goes on where it was: files that are there already are kept.
    """
    from cli.progress import Progress
    from ptq.pipeline import Compared, Swept
    from ptq.pipeline import sweep as run
    from ptq.recipe.grid import grid, parse_bits
    from ptq.report import render_sweep

    points, refused = grid(methods.split(","), parse_bits(bits), said_options(options))
    compared = Compared(model, (), evaluation, capture, images, **measuring)
    about = Swept(compared, data, points, refused, output or model.with_name(f"{model.stem}.sweep"))
    reports.check([model, data, evaluation])
    progress = Progress()
    with progress:
        found = run(about, progress)

    reports.write(found, lambda: render_sweep(found, progress.out))
    return 0
