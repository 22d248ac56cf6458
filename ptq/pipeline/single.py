"""A run by one recipe."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

from calibration.sources import open_data
from ptq.audit import check_runs, session_bytes
from ptq.cache import opened
from ptq.disk import passing
from ptq.errors import AuditError, ModelError
from ptq.model.capture import CaptureOptions, captured, is_onnx
from ptq.model.graph import Model
from ptq.model.save import write
from ptq.model.trained import Trained
from ptq.pipeline.build import build
from ptq.pipeline.compare import as_file
from ptq.pipeline.describe import Reference, describe
from ptq.pipeline.findings import find
from ptq.pipeline.job import Job
from ptq.pipeline.memory import available_bytes
from ptq.pipeline.noise import noise_for
from ptq.pipeline.outline import outline
from ptq.pipeline.predict import predict
from ptq.pipeline.ready import Ready, example, get_ready, wanted
from ptq.pipeline.result import Result
from ptq.pipeline.stages import Stages
from ptq.recipe import Recipe
from ptq.report import Outline


def assist(job: Job, recipe: Recipe, stages: Stages) -> None:
    """Do the share of a rank other than the first."""
    find(job, get_ready(job, recipe, stages), stages, opened(job.about))


def made(job: Job, recipe: Recipe, stages: Stages) -> Result:
    """Quantize a model and measure the result, as a file that is not yet where the job wants it."""
    ready = get_ready(job, recipe, stages)
    built = build(job, recipe, ready, stages, opened(job.about))
    with passing() as folder:
        reference = _reference(job.model, ready.raw, ready.taken, folder)
        try:
            report = describe(built.made, reference, built.written.path, job.output, job.accepted_drop, stages)
            if ready.data is None and ready.evaluation is None and built.made.elsewhere is None:
                _try_on_noise(ready, reference.given, built.written.path)
        except AuditError as error:  # of a file that is gone when it is read
            raise AuditError(str(error).replace(str(built.written.path), "the quantized model")) from error
    return Result(built.written, report)


def _try_on_noise(ready: Ready, reference: Path, written: Path) -> None:
    """Run a file that there are no data for, so that none is written that only loads; where memory holds both."""
    room = available_bytes()
    if room is not None and session_bytes(reference) + session_bytes(written) > room:
        return
    with contextlib.suppress(ModelError):  # what the float model does not take tells nothing of the other
        check_runs(reference, written, noise_for(ready.model, 1))


def preview(job: Job, recipe: Recipe, stages: Stages) -> Outline:
    """What `made` would do, and what it will take; nothing is written."""
    ready = get_ready(job, recipe, stages)
    with stages.stage("predict"):
        return replace(_outlined(job, ready), prediction=predict(ready))


def planned(job: Job, recipe: Recipe, stages: Stages) -> Outline:
    """What `made` would do, up to where it begins to run the network and to round."""
    return _outlined(job, get_ready(job, recipe, stages))


def _outlined(job: Job, ready: Ready) -> Outline:
    return outline(job.model, ready, wanted(ready.model, ready.plan, ready.executions))


def exported(job: Job) -> Job:
    """The same about the ONNX graph of its model, for those who run it more than once: an export takes its time."""
    if is_onnx(job.model):
        return job
    source = None if job.data is None else open_data(job.data, job.images, "--data")
    return replace(job, model=captured(job.model, job.capture, example(source)), capture=CaptureOptions())


def _reference(source: object, raw: Model, taken: Trained, folder: Path) -> Reference:
    """Files of the float network to compare with."""
    own = as_file(source, raw, folder)
    if not taken.rounded:
        return Reference(own, own)
    unrounded = folder / "unrounded.onnx"
    write(Model(taken.plain), unrounded)
    return Reference(own, unrounded)
