"""What is known of a run before anything is measured, and an outline of it."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from ptq.lowering import Execution
from ptq.model.sites import LOOKUPS, Site
from ptq.pipeline.describe import source_report
from ptq.pipeline.notes import precision_notes
from ptq.pipeline.parts import Wanted
from ptq.pipeline.ready import Ready
from ptq.pipeline.smooth import smoothable
from ptq.report import Outline, OutlinedLayer
from ptq.scheme import FLOAT_BITS, Scheme

_NATIVE = (Execution.QDQ, Execution.DEQUANTIZED)


def outline(source: Any, ready: Ready, needed: Wanted | None = None) -> Outline:
    """An outline; `needed` is what has to be known of the data."""
    if needed is None or ready.data is None:
        needed = Wanted([], [], ())
    sites = {"moment": needed.moments, "mean": needed.means}
    layers = tuple(_layers(ready, {kind: {site.name for site in each} for kind, each in sites.items()}))
    ranges = len(needed.ranges)
    counts = {layer.site: math.prod(layer.shape) for layer in layers}
    quantized = [layer for layer in layers if layer.method is not None]
    bits = sum(_expected(ready, site) for site in ready.model.sites if ready.plan.methods[site.name] is not None)
    return Outline(
        source=source_report(source, ready.model),
        options=ready.plan.recipe.as_options(),
        data=None if ready.data is None else ready.data.describe(),
        layers=layers,
        steps=tuple(_steps(ready, gathered=bool(ranges) or any(layer.statistics for layer in layers))),
        ranges=ranges,
        reserved=ready.reserved,
        bits_per_weight=bits / max(sum(counts[layer.site] for layer in quantized), 1),
        bytes=round(bits / 8) + sum(layer.bytes for layer in layers if layer.method is None),
        notes=tuple(precision_notes(ready.model)),
    )


def _least(ready: Ready, site: Site) -> int:
    """Bits of a site as far as its numbers do not decide: all, or where there is a budget, the least that it takes."""
    decided = ready.plan.sites[site.name]
    if decided.method is None:
        return FLOAT_BITS * math.prod(site.shape)
    scheme = decided.method.choices[0] if decided.budgeted else decided.method.scheme
    return _stored_bits(scheme, site, ready.executions[site.name], decided.points)


def _expected(ready: Ready, site: Site) -> float:
    """Bits of a site: of a budget, the average of all that share it; of time alone, the most."""
    plan, decided = ready.plan, ready.plan.sites[site.name]
    if decided.method is None or not decided.budgeted:
        return _least(ready, site)
    if plan.recipe.tolerance is None and plan.budget is not None:
        return max(plan.budget * math.prod(site.shape), _least(ready, site))
    scheme = decided.method.choices[-1] if plan.recipe.tolerance is None else decided.method.scheme
    return _stored_bits(scheme, site, ready.executions[site.name], decided.points)


def _layers(ready: Ready, needing: Mapping[str, Collection[str]]) -> Iterator[OutlinedLayer]:
    for site in ready.model.sites:
        made = ready.plan.sites[site.name]
        how = ready.executions[site.name]
        count = math.prod(site.shape)
        scheme = None if made.method is None else made.method.scheme
        bits = _least(ready, site)
        table = site.op in LOOKUPS
        yield OutlinedLayer(
            site=site.name,
            op=site.op,
            shape=site.shape,
            method=made.named,
            format="float32" if scheme is None else scheme.short(site.columns),
            activations=None if scheme is None or table else made.activations,
            execution=how.value,
            bits_per_weight=bits / count,
            bytes=-(-bits // 8),
            budgeted=made.budgeted,
            statistics=tuple(kind for kind, names in needing.items() if site.name in names),
            rule=made.rule,
            note=made.reason,
        )


def _stored_bits(scheme: Scheme, site: Site, how: Execution, points: int) -> int:
    """What the numbers of a site and their scales take, as far as the numbers themselves do not decide."""
    if how in _NATIVE:
        groups = -(-site.columns // scheme.group) if scheme.group else 1
        scales = 1 if scheme.per_tensor else site.rows * groups
        return math.prod(site.shape) * scheme.format.bits + FLOAT_BITS * scales
    return scheme.stored_bits(site.rows, site.columns, points)


def _steps(ready: Ready, *, gathered: bool) -> Iterator[str]:
    """The stages of a run and the steps of the recipe, in order."""
    named = ready.plan.steps
    yield "capture"
    yield from (name for name, step in named if step.when == "before")
    if ready.data is not None and smoothable(ready.model, ready.executions):
        yield "smooth"
    if gathered:
        yield "calibrate"
    yield "quantize"
    if ready.reserved:
        yield "allocate"
    yield from (name for name, step in named if step.when == "after")
    yield from ("lower", "audit")
    if ready.data is not None or ready.evaluation is not None:
        yield "evaluate"
