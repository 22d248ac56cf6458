"""`ptq inspect`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.help import Plain
from cli.options import model_options
from cli.reports import Reports, report_options

if TYPE_CHECKING:
    from ptq.model.capture import CaptureOptions

_FILE = click.Path(path_type=Path)


@click.command(cls=Plain, no_args_is_help=True)
@click.argument("model", type=_FILE)
@model_options
@report_options
def inspect(model: Path, capture: CaptureOptions, reports: Reports) -> None:
    """Show what MODEL is made of, what formats would save, and what quantizing it takes; no data is needed.

    ptq inspect model.onnx
    """
    from cli.progress import Progress
    from ptq.pipeline import inspect as run
    from ptq.report import render_inspection

    reports.check([model])
    progress = Progress()
    with progress:
        found = run(model, capture, progress)
    reports.write(found, lambda: render_inspection(found, progress.out))
