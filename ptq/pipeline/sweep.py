"""Quantize a model by a grid of recipes, compare what comes out, and keep it for the next time."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from calibration.dataset import Dataset, fit
from calibration.sources import open_data
from ptq.cache import Store, held, opened
from ptq.disk import passing, writing
from ptq.errors import ModelError, OptionError, OutputError
from ptq.model.capture import CaptureOptions, capture, onnx_file
from ptq.model.graph import Model
from ptq.model.save import metadata
from ptq.pipeline.build import build
from ptq.pipeline.compare import Compared, as_file, compare
from ptq.pipeline.job import Job
from ptq.pipeline.manifest import MANIFEST, manifest
from ptq.pipeline.ready import get_ready
from ptq.pipeline.stages import Stages
from ptq.recipe.grid import GridPoint, words
from ptq.report import Sweep, SweptPoint


@dataclass(frozen=True)
class Swept:
    """What is swept: a comparison without files, the calibration data, the grid, and the folder that files go to.

    Where the folder is only for a while, `passing`, command lines do not name it.
    """

    compared: Compared
    data: object
    points: Sequence[GridPoint]
    refused: Mapping[str, str]
    folder: Path
    passing: bool = False


def sweep(about: Swept, stages: Stages) -> Sweep:
    """Quantize every point that the folder does not hold yet, and compare all.

    What points have in common, such as statistics of the data, is found once. A file is kept where model, data, options
    and versions are the same; one of other inputs is made anew.

    Raises:
        OptionError: no recipe fits the model.
        OutputError: a file of a point's name is none of ours, or the folder cannot be written.
        PtqError: the model or the data are at fault.

    """
    compared = about.compared
    with writing(about.folder):
        about.folder.mkdir(parents=True, exist_ok=True)
    source = None if about.data is None else open_data(about.data, compared.images, "--data")
    unseen = open_data(compared.evaluation, compared.images, "--eval")
    with passing() as folder:
        with stages.stage("capture"):
            example = (source or unseen).example()
            model = Model(capture(compared.model, compared.capture, example))
            path = onnx_file(compared.model) or as_file(compared.model, model, folder)
        fit(unseen, model.inputs)
        data = None if source is None else fit(source, model.inputs)
        job = Job(path, source, images=compared.images, capture=CaptureOptions())
        store = opened(job.about)
        with held(about.folder, store.folder):
            points = list(_quantized(about, job, data, store, stages))
        store.trim()
        done = [point for point in points if point.refused is None]
        if not done:
            raise OptionError(f"no recipe of {len(points)} fits the model: {points[0].name}: {points[0].refused}")
        files = [about.folder / f"{point.name}.onnx" for point in done]
        found = compare(replace(compared, model=path, files=files, capture=CaptureOptions()), stages)
    name = str(compared.model) if isinstance(compared.model, Path) else "in memory"
    refused = [SweptPoint(name, refused=why) for name, why in about.refused.items()]
    return Sweep(replace(found, reference=replace(found.reference, path=name)), (*points, *refused))


def _quantized(about: Swept, job: Job, data: Dataset | None, store: Store, stages: Stages) -> Iterator[SweptPoint]:
    """Every point of the grid, as far as it can be quantized; the files are in the folder."""
    with stages.stage("sweep", len(about.points)) as advance:
        for point in about.points:
            path = about.folder / f"{point.name}.onnx"
            named = Path(path.name) if about.passing else path
            found = SweptPoint(point.name, path.name, _command(about, point, named))
            origin = manifest(job.model, point.recipe, data)
            there = _manifest(path)
            if there == origin:
                yield replace(found, kept=True)
                stages.say(f"{point.name}: was there already")
            else:
                quiet = Stages()
                try:
                    ready = get_ready(job, point.recipe, quiet)
                    written = build(replace(job, output=path), point.recipe, ready, quiet, store).written
                except (OptionError, ModelError) as error:
                    yield replace(found, refused=str(error))
                    stages.say(f"{point.name}: refused, {error}")
                else:
                    size, seconds = written.bytes, sum(quiet.seconds.values())
                    written.move(path, overwrite=there is not None)
                    yield replace(found, seconds=seconds)
                    stages.say(f"{point.name}: {size / 1e6:.2f} MB, made in {seconds:.1f} s")
            advance()


def _manifest(path: Path) -> str | None:
    """What a file of ours says of its origin; None where there is no file.

    Raises:
        OutputError: there is one of somebody else's.

    """
    if not path.exists():
        return None
    try:
        return metadata(path)[MANIFEST]
    except (ModelError, KeyError):
        raise OutputError(f"the output {path} exists and is not of a sweep; give another -o") from None


def _command(about: Swept, point: GridPoint, path: Path) -> str | None:
    """The command line that makes one file; None where model or data are no files, or the recipe has rules."""
    compared = about.compared
    named: list[tuple[str, object]] = [("", compared.model), ("--data", about.data), ("--eval", compared.evaluation)]
    files = all(isinstance(value, (str, Path, type(None))) for _, value in named)
    if point.recipe.layers or not files:
        return None
    inputs = [word for option, value in named if value is not None for word in (option, str(value)) if word]
    return shlex.join(["ptq", "quantize", *inputs, *words(point.recipe), "-o", str(path)])
