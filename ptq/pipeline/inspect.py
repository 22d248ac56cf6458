"""What a model is made of, and what formats would save: all that needs no data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from ptq.audit import file_bytes
from ptq.errors import OptionError, PtqError
from ptq.model.capture import CaptureOptions, onnx_file
from ptq.model.save import whole_bytes
from ptq.pipeline.calibrate import keys
from ptq.pipeline.describe import source_report
from ptq.pipeline.job import Job
from ptq.pipeline.manifest import versions
from ptq.pipeline.memory import needed_bytes
from ptq.pipeline.noise import noise_for
from ptq.pipeline.notes import precision_notes
from ptq.pipeline.outline import outline
from ptq.pipeline.predict import predict
from ptq.pipeline.ready import Ready, executions_of, get_ready
from ptq.pipeline.single import exported
from ptq.pipeline.stages import Stages
from ptq.recipe import Recipe
from ptq.report import FormatSize, InspectedLayer, Inspection, OtherWeights, PredictedRun

_SHOWN: Final[tuple[dict[str, str], ...]] = (
    {"weights": "int8"},
    {"weights": "int6"},
    {"weights": "int4"},
    {"weights": "int4", "group": "32"},
    {"weights": "lloyd4x2"},
    {"weights": "int3"},
    {"weights": "int2"},
    {"weights": "fp8_e4m3fn"},
    {"weights": "mxfp4"},
    {"weights": "nvfp4"},
)
"""One of each size and family."""


_PREDICTED: Final[tuple[dict[str, Any], ...]] = (
    {"method": "rtn", "weights": "int8"},
    {"method": "gptq", "weights": "int4"},
    {"method": "multipoint", "bits": 4.25},
)
_SAMPLES: Final = 64
"""What predictions are for: enough to calibrate most networks with."""


def inspect(model: Any, capture: CaptureOptions, stages: Stages) -> Inspection:
    """Look at a model, and run it on two samples of noise to predict what quantizing it will take.

    Raises:
        PtqError: it cannot be read, or has no layer.

    """
    job = Job(model, capture=capture)
    once = exported(job)
    ready = get_ready(once, Recipe(method="rtn", weights="int8"), stages)
    usual = Recipe(method="rtn", weights="int8").plan(ready.model.sites, has_data=True)
    executions = executions_of(ready.model, usual)
    layers = tuple(
        InspectedLayer(
            site.name,
            site.op,
            site.shape,
            math.prod(site.shape),
            executions[site.name].value,
            usual.reasons.get(site.name),
        )
        for site in ready.model.sites
    )
    products = {site.name: keys(site) for site in ready.model.sites if site.products}
    others = sorted(ready.model.other_weights, key=lambda each: -each[1])
    own = onnx_file(model)
    samples, predictions, notes = _predictions(once, ready, stages)
    return Inspection(
        source_report(model, ready.model),
        tuple(map(str, ready.model.inputs)),
        tuple(_output(ready, name) for name in ready.model.outputs),
        whole_bytes(ready.raw) if own is None else file_bytes(own),
        layers,
        tuple(OtherWeights(name, count, op) for name, count, op in others if count > 1),
        tuple(_sizes(ready, model)),
        needed_bytes(products, apart=True),
        versions(),
        predictions,
        samples,
        (*precision_notes(ready.model), *notes),
    )


def _output(ready: Ready, name: str) -> str:
    shape = ready.model.shape(name)
    return name if shape is None else f"{name}[{','.join('?' if size is None else str(size) for size in shape)}]"


def _predictions(job: Job, ready: Ready, stages: Stages) -> tuple[int, tuple[PredictedRun, ...], tuple[str, ...]]:
    """For how many samples, what usual recipes will take, and why there is nothing of it where there is not."""
    found = []
    with stages.stage("predict", len(_PREDICTED)) as advance:
        try:
            noise = noise_for(ready.model, _SAMPLES)
            like = replace(job, data=noise)
            for options in _PREDICTED:
                said = " ".join(f"--{name} {value}" for name, value in options.items())
                found.append(PredictedRun(said, predict(get_ready(like, Recipe.of(options), Stages()))))
                advance()
        except PtqError as error:
            return 0, (), (f"no prediction of time and memory, as the model does not run on noise: {error}",)
    return len(next(iter(noise.values()))), tuple(found), ()


def _sizes(ready: Ready, model: Any) -> Iterator[FormatSize]:
    """What the file comes to in each format."""
    kept = whole_bytes(ready.model) - sum(ready.model.site_weights.values())
    for options in _SHOWN:
        recipe = Recipe.of({**options, "method": "rtn"})
        said = " ".join(f"--{name} {value}" for name, value in options.items())
        try:
            plan = recipe.plan(ready.model.sites, has_data=False)
            found = outline(model, replace(ready, plan=plan, executions=executions_of(ready.model, plan)))
        except OptionError as error:
            yield FormatSize(said, note=str(error))
        else:
            yield FormatSize(said, found.bits_per_weight, found.bytes + kept)
