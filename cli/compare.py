"""`ptq compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from cli.help import Plain
from cli.options import image_options, measuring_options, model_options
from cli.reports import Reports, report_options

if TYPE_CHECKING:
    from calibration.images import ImageOptions
    from ptq.model.capture import CaptureOptions

FAILED_EXIT, STRICT_EXIT = 1, 3
_FILE = click.Path(path_type=Path)


@click.command(cls=Plain, no_args_is_help=True)
@click.argument("model", type=_FILE)
@click.argument("files", type=_FILE, nargs=-1, required=True)
@click.option("--eval", "evaluation", required=True, help="Data to run on, labels under 'labels'.")
@measuring_options
@model_options
@image_options
@report_options
@click.option("--strict", is_flag=True, help="Exit with 3 when there is a warning.")
def compare(  # noqa: PLR0917  (one parameter per option)
    model: Path,
    files: tuple[Path, ...],
    evaluation: str,
    measuring: dict[str, Any],
    capture: CaptureOptions,
    images: ImageOptions | None,
    reports: Reports,
    strict: bool,  # noqa: FBT001
) -> int:
    """Compare quantized FILES, whoever made them, with the float MODEL.

    ptq compare model.onnx a.onnx b.onnx --eval eval.npz --threads 1 --threads all

    Exits with 1 when a file does not load or run.
    """
    from cli.progress import Progress
    from ptq.pipeline import Compared
    from ptq.pipeline import compare as run
    from ptq.report import render_comparison

    about = Compared(model, files, evaluation, capture, images, **measuring)
    reports.check([model, *files, evaluation])
    progress = Progress()
    with progress:
        found = run(about, progress)

    reports.write(found, lambda: render_comparison(found, progress.out))
    if found.failed:
        return FAILED_EXIT
    return STRICT_EXIT if strict and len(found.passed) < len(found.files) else 0
