"""What a model is made of, and what formats would save: all that needs no data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final

from ptq.errors import OptionError
from ptq.model.capture import CaptureOptions
from ptq.model.save import serialized
from ptq.pipeline.calibrate import keys
from ptq.pipeline.describe import source_report
from ptq.pipeline.job import Job
from ptq.pipeline.memory import needed_bytes
from ptq.pipeline.outline import outline
from ptq.pipeline.ready import Ready, executions_of, get_ready
from ptq.pipeline.stages import Stages
from ptq.recipe import Recipe
from ptq.report import FormatSize, InspectedLayer, Inspection, OtherWeights

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


def inspect(model: Any, capture: CaptureOptions, stages: Stages) -> Inspection:
    """Look at a model.

    Raises:
        PtqError: it cannot be read, or has no layer.

    """
    ready = get_ready(Job(model, capture=capture), Recipe(method="rtn", weights="int8"), stages)
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
    float_bytes = len(serialized(ready.raw))
    return Inspection(
        source_report(model, ready.model),
        tuple(map(str, ready.model.inputs)),
        tuple(_output(ready, name) for name in ready.model.outputs),
        float_bytes,
        layers,
        tuple(OtherWeights(name, count, op) for name, count, op in others if count > 1),
        tuple(_sizes(ready, model, float_bytes)),
        needed_bytes(products, apart=True),
    )


def _output(ready: Ready, name: str) -> str:
    shape = ready.model.shape(name)
    return name if shape is None else f"{name}[{','.join('?' if size is None else str(size) for size in shape)}]"


def _sizes(ready: Ready, model: Any, float_bytes: int) -> Iterator[FormatSize]:
    """What the file comes to in each format."""
    kept = float_bytes - 4 * sum(math.prod(site.shape) for site in ready.model.sites)
    for options in _SHOWN:
        recipe = Recipe.of({**options, "method": "rtn"})
        said = " ".join(f"--{name} {value}" for name, value in options.items())
        try:
            plan = recipe.plan(ready.model.sites, has_data=False)
            found = outline(model, replace(ready, plan=plan, executions=executions_of(ready.model, plan)), {}, ())
        except OptionError as error:
            yield FormatSize(said, note=str(error))
        else:
            yield FormatSize(said, found.bits_per_weight, found.bytes + max(kept, 0))
