"""What the command line and Python call: a run by one recipe, or by the best of several."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from calibration.images import ImageOptions
from calibration.spec import InputSpec
from ptq.cache import held, opened
from ptq.devices import CPU
from ptq.errors import OptionError
from ptq.model.capture import CaptureOptions
from ptq.pipeline import auto, single
from ptq.pipeline.compare import Compared
from ptq.pipeline.compare import compare as compare_files
from ptq.pipeline.diagnose import Diagnosed, single_recipe
from ptq.pipeline.diagnose import diagnose as diagnose_layers
from ptq.pipeline.inspect import inspect as inspect_model
from ptq.pipeline.job import Job
from ptq.pipeline.output import clear
from ptq.pipeline.result import Result
from ptq.pipeline.size import Size
from ptq.pipeline.stages import Stages
from ptq.pipeline.sweep import Swept
from ptq.pipeline.sweep import sweep as sweep_grid
from ptq.ranks import ranks
from ptq.recipe import Auto, Recipe, asked
from ptq.recipe.grid import grid
from ptq.report import Comparison, Diagnosis, Inspection, Outline, Report, Sweep, Trials


def run(
    about: Job,
    recipe: Recipe | Auto,
    stages: Stages,
    beside: Callable[[Report], AbstractContextManager[object]] = nullcontext,
) -> Result:
    """Quantize a model, measure the result, and write it when the job names an output.

    The file gets its name while what the report is handed `beside` to lasts.

    Raises:
        OptionError: there is a size to meet, and only one recipe.
        OutputError: another run is writing the same output.

    """
    _check(about, recipe)
    store = opened(about.about)
    with held(about.output, store.folder):
        if about.output is not None:
            clear(about.output)
        made = auto.made(about, recipe, stages) if isinstance(recipe, Auto) else single.made(about, recipe, stages)
        with beside(made.report):
            if about.output is not None:
                made.written.move(about.output, overwrite=about.overwrite)
    store.trim()
    return made


def assist(about: Job, recipe: Recipe | Auto, stages: Stages) -> None:
    """Do the share of a rank other than the first of what that does in `run`.

    Raises:
        OptionError: as `run` does.

    """
    _check(about, recipe)
    if isinstance(recipe, Recipe):
        store = opened(about.about)
        with held(None, store.folder):
            single.assist(replace(about, output=None), recipe, stages)


def preview(about: Job, recipe: Recipe | Auto, stages: Stages) -> Outline | Trials:
    """What `run` would do, up to where it begins to measure and to round; nothing is written.

    Raises:
        OptionError: there is a size to meet, and only one recipe.

    """
    _check(about, recipe)
    return auto.preview(about, recipe, stages) if isinstance(recipe, Auto) else single.preview(about, recipe, stages)


def _check(about: Job, recipe: Recipe | Auto) -> None:
    if about.target_size is not None and isinstance(recipe, Recipe):
        raise OptionError("--target-size is what --method auto chooses by, and no other; give that, or leave it out")
    if isinstance(recipe, Auto) and ranks().size > 1:
        raise OptionError("--method auto works in one process; start it without torchrun, or name a method")


def compare(
    model: Any,
    files: Sequence[str | Path],
    eval_data: Any,
    *,
    images: ImageOptions | None = None,
    capture: CaptureOptions | None = None,
    **measuring: Any,
) -> Comparison:
    """Compare quantized files, whoever made them, with the float model.

    `model` and `eval_data` are as in `quantize`; `measuring` are `metrics`, `max_drop`, and `threads` and `batches`, by
    which latency is measured, all with all.

    Raises:
        PtqError: the float model or the data are at fault; a file that does not run is reported as that.

    """
    paths = [Path(path) for path in files]
    about = Compared(_path(model), paths, eval_data, capture or CaptureOptions(), images, **_tuples(measuring))
    return compare_files(about, Stages())


def sweep(
    model: Any,
    data: Any = None,
    *,
    eval_data: Any,
    folder: str | Path,
    methods: Sequence[str] = ("multipoint",),
    bits: Sequence[float] = (3.25, 4.25, 6),
    images: ImageOptions | None = None,
    capture: CaptureOptions | None = None,
    measuring: Mapping[str, Any] | None = None,
    **options: Any,
) -> Sweep:
    """Quantize a model by each of the methods at each number of bits, and compare what comes out.

    The files go to `folder`, and are kept the next time; `measuring` is what `compare` takes, `options` what `Recipe`
    does, but for the method and the size.

    Raises:
        PtqError: anything that the caller can put right.

    """
    points, refused = grid(methods, bits, options)
    about = Compared(_path(model), (), eval_data, capture or CaptureOptions(), images, **_tuples(measuring or {}))
    return sweep_grid(Swept(about, data, points, refused, Path(folder)), Stages())


def inspect(model: Any, *, capture: CaptureOptions | None = None) -> Inspection:
    """What a model is made of, what formats would save, and what quantizing it takes; no data is needed.

    Raises:
        PtqError: it cannot be read, or has nothing to quantize.

    """
    return inspect_model(_path(model), capture or CaptureOptions(), Stages())


def diagnose(
    model: Any,
    data: Any = None,
    *,
    eval_data: Any,
    recipe: str | Path | Mapping[str, Any] | Recipe | None = None,
    samples: int = 64,
    **options: Any,
) -> Diagnosis:
    """Find the layers that cost most when a model is quantized, and try what may help.

    Arguments are those of `quantize`; `samples` is on how many of `eval_data` each layer is measured.

    Raises:
        PtqError: anything that the caller can put right.

    """
    about, wanted = _job(model, data, eval_data, recipe, options)
    return diagnose_layers(Diagnosed(about, single_recipe(wanted), samples), Stages())


def _path(model: Any) -> Any:
    return Path(model) if isinstance(model, str) else model


def _tuples(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, (list, tuple)) else value for name, value in options.items()}


def quantize(
    model: Any,
    data: Any = None,
    *,
    eval_data: Any = None,
    recipe: str | Path | Mapping[str, Any] | Recipe | None = None,
    **options: Any,
) -> Result:
    """Quantize a model and measure the result.

    `model` is a path, an nn.Module, an exported program or an ONNX model; `data` and `eval_data` are paths, arrays by
    input name, or iterables of batches. `recipe` is the name of a preset, a file or a mapping of options; `options`
    go over it. They are those of `Recipe` and: `network`, the `module:callable` that
    makes the network of a state dict; `inputs`, each `"name:dtype[shape]"`; `images` (`ImageOptions`) for folders of
    images; `trust_pickle`; `metrics`, names of scores or `module:callable`; `max_drop`, the largest accepted loss of
    accuracy; `target_size`, such as "3MB" or "0.25x", with `method="auto"`; `device`, where layers are solved, such as
    "cuda".

    Raises:
        PtqError: anything that the caller can put right.

    """
    return run(*_job(model, data, eval_data, recipe, options), Stages())


def _job(
    model: Any,
    data: Any,
    eval_data: Any,
    recipe: str | Path | Mapping[str, Any] | Recipe | None,
    options: Mapping[str, Any],
) -> tuple[Job, Recipe | Auto]:
    """What is to be done of the options, and how of the others."""
    wanted = dict(options)
    inputs = tuple(InputSpec.parse(each) if isinstance(each, str) else each for each in wanted.pop("inputs", ()))
    said = CaptureOptions(
        trust_pickle=wanted.pop("trust_pickle", False), model=wanted.pop("network", None), inputs=inputs
    )
    size = wanted.pop("target_size", None)
    about = Job(
        _path(model),
        data,
        eval_data,
        capture=said,
        images=wanted.pop("images", None),
        metrics=tuple(wanted.pop("metrics", ())),
        max_drop=wanted.pop("max_drop", None),
        target_size=None if size is None else Size.parse(size),
        device=wanted.pop("device", CPU),
    )
    return about, asked(recipe, wanted)
