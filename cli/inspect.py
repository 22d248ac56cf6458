"""`ptq inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.options import model_options
from cli.reports import JSON, format_option

if TYPE_CHECKING:
    from ptq.model.capture import CaptureOptions

_FILE = click.Path(path_type=Path)


@click.command(no_args_is_help=True)
@click.argument("model", type=_FILE)
@model_options
@format_option
def inspect(model: Path, capture: CaptureOptions, *, form: str) -> None:
    """Show what MODEL is made of, and what formats would save; nothing is run, and no data is needed.

    ptq inspect model.onnx
    """
    from cli.progress import Progress
    from ptq.pipeline import inspect as run
    from ptq.report import render_inspection, to_json

    progress = Progress()
    with progress:
        found = run(model, capture, progress)
    if form == JSON:
        click.echo(to_json(found), nl=False)
    else:
        render_inspection(found, progress.out)
