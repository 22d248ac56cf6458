"""`ptq quantize`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from rich.console import Console

    from calibration.images import ImageOptions
    from cli.progress import Progress
    from ptq.model.capture import CaptureOptions

STRICT_EXIT = 3
_FILE = click.Path(path_type=Path)
_Command = Callable[..., Any]


_RECIPE = (
    click.option("--step", "steps", multiple=True, metavar="NAME", help="Done besides, in order; may be repeated."),
    click.option(
        "--method",
        default="multipoint",
        show_default=True,
        help="multipoint, mixed, adaround, gptq, gpfq, hqq, ocs, rtn; auto tries several.",
    ),
    click.option("--weights", default="int4", show_default=True, help="A format; `ptq formats` lists them."),
    click.option("--group", help="What shares a scale: channel, tensor, or 16 to 256 weights  [default: channel]."),
    click.option("--bits", type=float, help="Average bits per weight  [default: 0.4 above the base format]."),
    click.option("--tolerance", type=float, help="Add points while a channel's output error exceeds this share."),
    click.option("--points", type=int, help="The same number of points everywhere."),
    click.option("--per", help="Choose points per channel or layer  [default: channel]."),
    click.option("--search", help="radix, greedy (the paper's), greedy-grid  [default: radix]."),
    click.option("--alpha", type=float, help="Strength of smoothquant  [default: 0.5]."),
    click.option("--rounding", help="Of radix points: nearest, hessian, gpfq, adaround  [default: hessian with data]."),
    click.option(
        "--among", metavar="FORMATS", help="Formats of layers, of mixed: int2,int4,int8  [default: int2 to int8]."
    ),
    click.option("--metric", help="What mixed spends bits by: sensitivity or ompq  [default: sensitivity]."),
    click.option("--beta", type=float, help="How much ompq makes of likeness  [default: 1]."),
    click.option("--max-latency", type=float, help="Of mixed: part of FP32's time; layers may stay in float."),
    click.option("--portable", is_flag=True, help="Keep |weight| <= 63: exact on CPUs without VNNI."),
    click.option("--activations", help="uint8, dynamic, none, or fp8_* simulated  [default: uint8 with data]."),
    click.option("--target", default="cpu", show_default=True, help="What runs the file: cpu, cuda or tensorrt."),
    click.option("--range", default="minmax", show_default=True, help="minmax, percentile, mse, entropy."),
    click.option("--embeddings", default="int8", show_default=True, help="Format of embedding tables, or none."),
    click.option("--first-last", help="Format of the first and last layer: int8."),
    click.option("--keep-float", multiple=True, metavar="REGEX", help="Leave these layers in float; may be repeated."),
)
"""The options that say how to quantize; their names are those of the fields of a recipe."""


def _recipe_options(command: _Command) -> _Command:
    for option in reversed(_RECIPE):
        command = option(command)
    return command


@click.command(no_args_is_help=True)
@click.argument("model", type=_FILE)
@click.option("-o", "--output", type=_FILE, help="The file to write; MODEL.FORMAT.onnx if left out.")
@click.option("--data", help="Calibration data: .npz .npy .pt .safetensors, image folder, module:callable.")
@click.option("--eval", "evaluation", help="Data to evaluate on, of the same kinds; labels under 'labels'.")
@click.option("--recipe", "recipe_file", metavar="NAME|FILE", help="A recipe of `ptq recipes`, or one in .toml.")
@_recipe_options
@click.option("--input", "inputs", multiple=True, metavar="NAME:DTYPE[SHAPE]", help="An input of a .pt model.")
@click.option("--model", "network", metavar="MODULE:CALLABLE", help="Makes the network of a state dict.")
@click.option("--trust-pickle", is_flag=True, help="Load a pickled module: this runs code from the file.")
@click.option("--image-size", type=int, help="Side of the images of a folder.")
@click.option("--image-mean", help="Mean per channel, of pixels in 0..1: R,G,B.")
@click.option("--image-std", help="Standard deviation per channel: R,G,B.")
@click.option("--max-drop", type=float, help="Largest accepted drop in accuracy  [default: 0.02].")
@click.option("--target-size", metavar="SIZE", help="Largest file for auto: 3MB, 750kB, or 0.25x FP32's.")
@click.option("--json", "json_file", type=_FILE, help="Also write the report here.")
@click.option("--layers", is_flag=True, help="Show the table of layers.")
@click.option("--dry-run", is_flag=True, help="Show the plan, layer by layer, and write no model.")
@click.option("--overwrite", is_flag=True, help="Replace an existing output.")
@click.option("--strict", is_flag=True, help="Exit with 3 when there is a warning.")
def quantize(  # noqa: PLR0917  (one parameter per option)
    model: Path,
    output: Path | None,
    data: str | None,
    evaluation: str | None,
    recipe_file: str | None,
    inputs: tuple[str, ...],
    network: str | None,
    trust_pickle: bool,  # noqa: FBT001
    image_size: int | None,
    image_mean: str | None,
    image_std: str | None,
    max_drop: float | None,
    target_size: str | None,
    json_file: Path | None,
    layers: bool,  # noqa: FBT001
    dry_run: bool,  # noqa: FBT001
    overwrite: bool,  # noqa: FBT001
    strict: bool,  # noqa: FBT001
    **options: Any,
) -> int:
    """Quantize MODEL (.onnx, .pt2, .pt, .safetensors) and measure the result.

    ptq quantize model.pt --data calib.npz --eval eval.npz -o model.int4.onnx
    """
    from cli.progress import Progress
    from ptq.pipeline import Job, Size, preview, run
    from ptq.pipeline.output import write_atomically
    from ptq.recipe import AUTO, Recipe, asked
    from ptq.report import Report, to_json

    said = click.get_current_context().get_parameter_source
    given = {name: value for name, value in options.items() if said(name) is not ParameterSource.DEFAULT}
    recipe = asked(recipe_file, given)
    kind = recipe.kind if isinstance(recipe, Recipe) else AUTO
    output = output or model.with_name(f"{model.stem}.{kind}.onnx")
    if json_file is not None:
        _check_json(json_file, output, [model, data, evaluation], overwrite=overwrite)
    job = Job(
        model,
        data,
        evaluation,
        None if dry_run else output,
        overwrite,
        _capture(inputs, network, trust_pickle=trust_pickle),
        _images(image_size, image_mean, image_std),
        max_drop,
        None if target_size is None else Size.parse(target_size),
    )
    progress = Progress()
    with _showing_trials(progress), progress:
        done = preview(job, recipe, progress) if dry_run else run(job, recipe, progress).report
    if json_file is not None:
        write_atomically(json_file, to_json(done).encode(), overwrite=overwrite)
    _show(done, progress.out, layers=layers)
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


def _check_json(file: Path, output: Path, read: list[Path | str | None], *, overwrite: bool) -> None:
    from ptq.pipeline.output import check_free, check_not_input

    if file.resolve() == output.resolve():
        raise click.UsageError(f"--json and the output are the same file, {output}; give two names")
    check_not_input(file, read)
    check_free(file, overwrite=overwrite)


def _capture(inputs: tuple[str, ...], network: str | None, *, trust_pickle: bool) -> CaptureOptions:
    from calibration.spec import InputSpec
    from ptq.model.capture import CaptureOptions

    found = tuple(InputSpec.parse(text) for text in inputs)
    return CaptureOptions(trust_pickle=trust_pickle, model=network, inputs=found)


def _images(size: int | None, mean: str | None, std: str | None) -> ImageOptions | None:
    """What is said about images, all of it or nothing."""
    if size is None and mean is None and std is None:
        return None
    if size is None or mean is None or std is None:
        raise click.UsageError("--image-size, --image-mean and --image-std belong together; give all three")
    from calibration.images import ImageOptions

    return ImageOptions(size, _numbers("--image-mean", mean), _numbers("--image-std", std))


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.UsageError(f"{option} {text!r} is not numbers with commas; write for example 0.5,0.5,0.5") from None
