"""Find the layers that cost most, propose what to do, and try it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from calibration.dataset import Dataset
from ptq.audit.profile import Profile, profiles
from ptq.cache import opened
from ptq.disk import passing
from ptq.errors import DataError, OptionError
from ptq.evaluate import Accuracy, evaluate_all
from ptq.method import OneTerm
from ptq.model.save import serialized, write
from ptq.model.session import Session
from ptq.pipeline.build import Built, build
from ptq.pipeline.compare import Compared
from ptq.pipeline.describe import EVALUATION_BATCH, layer_format
from ptq.pipeline.job import Job
from ptq.pipeline.ready import get_ready
from ptq.pipeline.single import exported
from ptq.pipeline.solved import SiteWeights
from ptq.pipeline.stages import Stages
from ptq.pipeline.sweep import Swept, sweep
from ptq.recipe import METHODS, Auto, Recipe
from ptq.recipe.grid import GridPoint
from ptq.report import AS_IT_IS, Blame, Diagnosis

_AT_ONCE: Final = 4
"""Layers whose files are open together, so that the float model is run less often."""

_MORE_BITS: Final = 0.5
_SIZES: Final = ("bits", "tolerance", "points", "per")
_BETTER: Final = {"int4": "lloyd4x2", "int3": "lloyd3x2", "lloyd4": "lloyd4x2"}
"""Formats as wide whose numbers lie where weights do."""

_WORST: Final = (1, 3)
"""How many of the layers that cost most are proposed to stay float."""


@dataclass(frozen=True)
class Diagnosed:
    """What is diagnosed: a job with data to evaluate on, a recipe, and how many samples layers are measured on."""

    job: Job
    recipe: Recipe
    samples: int


def single_recipe(asked: Recipe | Auto) -> Recipe:
    """The recipe that is diagnosed.

    Raises:
        OptionError: several are asked for.

    """
    if not isinstance(asked, Recipe):
        raise OptionError("diagnose is about one recipe, and --method auto stands for several; give another --method")
    return asked


def diagnose(about: Diagnosed, stages: Stages) -> Diagnosis:
    """Quantize by the recipe, measure every layer alone and the network without it, and try what may help.

    Raises:
        DataError: there are no data to evaluate on.
        PtqError: what `quantize` raises.

    """
    if about.job.evaluation is None:
        raise DataError("diagnose compares outputs; give --eval")
    once = exported(about.job)
    ready = get_ready(once, about.recipe, stages)
    built = build(once, about.recipe, ready, stages, opened(about.job.about), partly=True)
    if ready.evaluation is None:
        raise AssertionError
    data = ready.evaluation.take(about.samples)
    whole = built.made.weights
    with passing() as folder:
        reference = folder / "float.onnx"
        write(ready.raw, reference)
        session = Session(reference)
        accuracy = _evaluated(session, [built.written.path], data, about.job)[0]
        blamed = list(_blamed(built, session, data, about.job, stages))
        times = _times(built, data, folder)
        layers = [
            replace(each, float_ms=_ms(times[0], each.site), ms=_ms(times[1], each.site))
            for each in sorted(blamed, key=lambda each: _order(each.alone))
        ]
        compared = Compared(
            about.job.model,
            (),
            about.job.evaluation,
            about.job.capture,
            about.job.images,
            about.job.metrics,
            about.job.accepted_drop,
        )
        points = list(_proposals(about.recipe, layers, whole))
        tried = sweep(Swept(compared, about.job.data, points, {}, folder / "tried", passing=True), stages)
    return Diagnosis(about.recipe.title, accuracy, tuple(layers), tried)


def _evaluated(session: Session, contents: Sequence[bytes | Path], data: Dataset, job: Job) -> list[Accuracy]:
    return evaluate_all(session, [Session(each) for each in contents], data.batches(EVALUATION_BATCH), job.metrics)


def _blamed(built: Built, session: Session, data: Dataset, job: Job, stages: Stages) -> Iterator[Blame]:
    """Every quantized layer alone, and the network without it."""
    weights, model = built.made.weights, built.made.model
    sites = [site for site in model.sites if site.name in weights]
    with stages.stage("diagnose", len(sites)) as advance:
        for start in range(0, len(sites), _AT_ONCE):
            part = sites[start : start + _AT_ONCE]
            some = [{site.name: weights[site.name]} for site in part]
            others = [{name: each for name, each in weights.items() if name != site.name} for site in part]
            contents = [serialized(built.lowering(each)) for each in (*some, *others)]
            found = _evaluated(session, contents, data, job)
            for number, site in enumerate(part):
                yield Blame(
                    site.name,
                    site.op,
                    layer_format(weights[site.name].outline),
                    4 * site.rows * site.columns,
                    -(-weights[site.name].outline.storage_bits // 8),
                    found[number],
                    found[number + len(part)],
                    None,
                    None,
                )
                advance()


def _times(built: Built, data: Dataset, folder: Path) -> list[Profile]:
    """The time of each layer in the float network and in the quantized one."""
    paths = [folder / f"{name}.onnx" for name in ("none", "all")]
    for path, weights in zip(paths, ({}, built.made.weights), strict=True):
        write(built.lowering(weights), path)
    return profiles(paths, next(data.batches(1)).feeds)


def _ms(profile: Profile, site: str) -> float | None:
    seconds = profile.sites.get(site)
    return None if seconds is None else 1e3 * seconds


def _order(alone: Accuracy) -> float:
    return float("inf") if alone.sqnr_db is None else alone.sqnr_db


def _proposals(recipe: Recipe, layers: Sequence[Blame], weights: Mapping[str, SiteWeights]) -> Iterator[GridPoint]:
    """What may help: the recipe as it is first, to compare with."""
    yield GridPoint(AS_IT_IS, recipe)
    for count in _WORST:
        if count < len(weights):
            named = [f"^{re.escape(layer.site)}$" for layer in layers[:count]]
            yield GridPoint(f"float-{count}-worst", recipe.but({"keep_float": [*recipe.keep_float, *named]}))
    for name, options in _changes(recipe):
        try:
            yield GridPoint(name, recipe.but(options))
        except OptionError:  # it does not go with the other options
            continue


def _changes(recipe: Recipe) -> Iterator[tuple[str, dict[str, object]]]:
    """Options that spend more bits, or the same ones better."""
    method = METHODS[recipe.method].METHOD
    if "bits" in method.OPTIONS and recipe.points is None and recipe.tolerance is None and recipe.bits is not None:
        yield f"bits-{recipe.bits + _MORE_BITS:g}", {"bits": recipe.bits + _MORE_BITS}
    if recipe.first_last is None:
        yield "first-last-int8", {"first_last": "int8"}
    if recipe.method == "rtn":
        yield "gptq", {"method": "gptq"}
    if recipe.weights in _BETTER:
        if issubclass(method, OneTerm):
            yield "multipoint", {"method": "multipoint"}
        better = _BETTER[recipe.weights]
        yield better, {"weights": better}
    if recipe.weights != "int8":
        alone = recipe.method if issubclass(method, OneTerm) else "gptq"
        yield f"{alone}-int8", {"weights": "int8", "method": alone, **dict.fromkeys(_SIZES)}
