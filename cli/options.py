"""Groups of options that several commands have, each handed over as one thing."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from calibration.images import ImageOptions
    from ptq.model.capture import CaptureOptions

Command = Callable[..., Any]

_SIZES = frozenset({"method", "bits", "tolerance", "points"})

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
    click.option("--worth", help="What mixed spends bits by: sensitivity or ompq  [default: sensitivity]."),
    click.option("--beta", type=float, help="How much ompq makes of likeness  [default: 1]."),
    click.option("--max-latency", type=float, help="Of mixed: part of FP32's time; layers may stay in float."),
    click.option("--portable", is_flag=True, help="Keep |weight| <= 63: exact on CPUs without VNNI."),
    click.option("--sequential", is_flag=True, help="Calibrate each layer on what those before give when rounded."),
    click.option("--activations", help="uint8, dynamic, none, or fp8_* simulated  [default: uint8 with data]."),
    click.option("--target", default="cpu", show_default=True, help="What runs the file: cpu, cuda or tensorrt."),
    click.option("--range", default="minmax", show_default=True, help="minmax, percentile, mse, entropy."),
    click.option("--embeddings", default="int8", show_default=True, help="Format of embedding tables, or none."),
    click.option("--first-last", help="Format of the first and last layer: int8."),
    click.option("--keep-float", multiple=True, metavar="REGEX", help="Leave these layers in float; may be repeated."),
)
"""The options that say how to quantize; their names are those of the fields of a recipe."""


def recipe_options(command: Command) -> Command:
    """How to quantize; each option by its own name."""
    return _with(_RECIPE, command)


def grid_options(command: Command) -> Command:
    """How to quantize, but for the method and the sizes of what comes out."""
    command = recipe_options(command)
    _parameters(command)[:] = [each for each in _parameters(command) if each.name not in _SIZES]
    return command


def said_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those options that were given, and not left at what is usual."""
    source = click.get_current_context().get_parameter_source
    return {name: value for name, value in options.items() if source(name) is not ParameterSource.DEFAULT}


def _parameters(command: Command) -> list[click.Parameter]:
    """Those that decorators have added so far."""
    found: list[click.Parameter] = command.__click_params__  # type: ignore[attr-defined]
    return found


_MODEL = (
    click.option("--input", "inputs", multiple=True, metavar="NAME:DTYPE[SHAPE]", help="An input of a .pt model."),
    click.option("--model", "network", metavar="MODULE:CALLABLE", help="Makes the network of a state dict."),
    click.option("--trust-pickle", is_flag=True, help="Load a pickled module: this runs code from the file."),
)
_IMAGES = (
    click.option("--image-size", type=int, help="Side of the images of a folder."),
    click.option("--image-mean", help="Mean per channel, of pixels in 0..1: R,G,B."),
    click.option("--image-std", help="Standard deviation per channel: R,G,B."),
)


_MEASURING = (
    click.option(
        "--metric", "metrics", multiple=True, metavar="NAME", help="A score by labels: top-1, rmse, module:callable."
    ),
    click.option("--max-drop", type=float, default=0.02, show_default=True, help="Largest accepted drop in accuracy."),
    click.option("--threads", multiple=True, metavar="N", help="To time with, or all; may be repeated  [default: 1]."),
    click.option("--batch", "batches", multiple=True, type=int, metavar="N", help="To time with  [default: 1]."),
)


def measuring_options(command: Command) -> Command:
    """What files are measured by, as `measuring`."""

    @functools.wraps(command)
    def wrapped(
        *, metrics: tuple[str, ...], max_drop: float, threads: tuple[str, ...], batches: tuple[int, ...], **others: Any
    ) -> Any:
        measuring = {
            "metrics": metrics,
            "max_drop": max_drop,
            "threads": tuple(map(_threads, threads)) or (1,),
            "batches": batches or (1,),
        }
        return command(measuring=measuring, **others)

    return _with(_MEASURING, wrapped)


def _threads(text: str) -> int:
    from ptq.pipeline import cores

    if text == "all":
        return cores()
    if not text.isdecimal():
        raise click.UsageError(f"--threads {text!r} is no number; write for example 1, or all")
    return int(text)


def model_options(command: Command) -> Command:
    """How to load a model, as `capture`."""

    @functools.wraps(command)
    def wrapped(*, inputs: tuple[str, ...], network: str | None, trust_pickle: bool, **others: Any) -> Any:
        return command(capture=_capture(inputs, network, trust_pickle=trust_pickle), **others)

    return _with(_MODEL, wrapped)


def image_options(command: Command) -> Command:
    """What images of a folder are made to, as `images`."""

    @functools.wraps(command)
    def wrapped(*, image_size: int | None, image_mean: str | None, image_std: str | None, **others: Any) -> Any:
        return command(images=_images(image_size, image_mean, image_std), **others)

    return _with(_IMAGES, wrapped)


def _with(options: Sequence[Callable[[Command], Command]], command: Command) -> Command:
    for option in reversed(options):
        command = option(command)
    return command


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
