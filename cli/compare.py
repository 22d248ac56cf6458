"""`ptq compare`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from cli.options import command_line, image_options, model_options

if TYPE_CHECKING:
    from calibration.images import ImageOptions
    from ptq.model.capture import CaptureOptions

FAILED_EXIT, STRICT_EXIT = 1, 3
_FILE = click.Path(path_type=Path)


@click.command(no_args_is_help=True)
@click.argument("model", type=_FILE)
@click.argument("files", type=_FILE, nargs=-1, required=True)
@click.option("--eval", "evaluation", required=True, help="Data to run on, labels under 'labels'.")
@click.option(
    "--metric", "metrics", multiple=True, metavar="NAME", help="A score by labels: top-1, f1, rmse, module:callable."
)
@click.option("--max-drop", type=float, default=0.02, show_default=True, help="Largest accepted drop in accuracy.")
@click.option("--threads", multiple=True, metavar="N", help="To time with, or all; may be repeated  [default: 1].")
@click.option(
    "--batch", "batches", multiple=True, type=int, metavar="N", help="To time with; may be repeated  [default: 1]."
)
@model_options
@image_options
@click.option("--html", "html_file", type=_FILE, help="Also write a report that opens in a browser.")
@click.option("--json", "json_file", type=_FILE, help="Also write the comparison here.")
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@click.option("--strict", is_flag=True, help="Exit with 3 when there is a warning.")
def compare(  # noqa: PLR0917  (one parameter per option)
    model: Path,
    files: tuple[Path, ...],
    evaluation: str,
    metrics: tuple[str, ...],
    max_drop: float,
    threads: tuple[str, ...],
    batches: tuple[int, ...],
    capture: CaptureOptions,
    images: ImageOptions | None,
    html_file: Path | None,
    json_file: Path | None,
    overwrite: bool,  # noqa: FBT001
    strict: bool,  # noqa: FBT001
) -> int:
    """Compare quantized FILES, whoever made them, with the float MODEL.

    ptq compare model.onnx a.onnx b.onnx --eval eval.npz --threads 1 --threads all

    Exits with 1 when a file does not load or run.
    """
    from cli.progress import Progress
    from ptq.pipeline import Compared, cores
    from ptq.pipeline import compare as run
    from ptq.pipeline.output import check_free, check_not_input, write_atomically
    from ptq.report import render_comparison, to_json

    about = Compared(
        model,
        files,
        evaluation,
        capture,
        images,
        metrics,
        max_drop,
        tuple(cores() if each == "all" else _number(each) for each in threads) or (1,),
        batches or (1,),
    )
    outputs = [path for path in (html_file, json_file) if path is not None]
    for path in outputs:
        check_not_input(path, [model, *files, evaluation])
        check_free(path, overwrite=overwrite)
    if len({path.resolve() for path in outputs}) < len(outputs):
        raise click.UsageError(f"--html and --json are the same file, {html_file}; give two names")
    progress = Progress()
    with progress:
        found = run(about, progress)
    if html_file is not None:
        from ptq.report.html import comparison_page

        write_atomically(html_file, comparison_page(found, command_line()).encode(), overwrite=overwrite)
    if json_file is not None:
        write_atomically(json_file, to_json(found).encode(), overwrite=overwrite)
    render_comparison(found, progress.out)
    if found.failed:
        return FAILED_EXIT
    return STRICT_EXIT if strict and len(found.passed) < len(found.files) else 0


def _number(text: str) -> int:
    if not text.isdecimal():
        raise click.UsageError(f"--threads {text!r} is no number; write for example 1, or all")
    return int(text)
