"""Smooth the inputs of products that find their 8-bit range anew at every call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from calibration.batch import Batch
from calibration.observers import Channels
from ptq.lowering import Execution
from ptq.model.graph import Model
from ptq.model.probe import channelled, channels_as
from ptq.model.rescale import Rescaling, normalized, rescaled
from ptq.model.sites import Site
from ptq.pipeline.stages import Advance
from ptq.pipeline.weights import is_on_grid
from ptq.recipe import Plan
from ptq.smoothing import smooth, uneven


def smoothable(model: Model, executions: Mapping[str, Execution]) -> dict[str, list[Site]]:
    """The sites that read a tensor, by its name, where its channels may be scaled for them."""
    found: dict[str, list[Site]] = {}
    for site in model.sites:
        if executions[site.name] is Execution.DYNAMIC and len(site.uses) == 1:
            found.setdefault(site.uses[0].input, []).append(site)
    return {name: sites for name, sites in found.items() if model.shape(name) is not None}


def smoothed(
    model: Model,
    plan: Plan,
    readers: Mapping[str, list[Site]],
    batches: Iterable[Batch],
    advance: Advance = lambda: None,
) -> Model:
    """The model with those inputs smoothed for which it pays, found on these batches.

    Where a step of the recipe has scaled inputs, none is scaled again.
    """
    channels = {name: Channels.of(sites[0].columns) for name, sites in readers.items()}
    session = channelled(model.graph, channels)
    for batch in batches:
        found = dict(zip(session.outputs, map(torch.from_numpy, session.run(batch.feeds)), strict=True))
        for name, seen in channels.items():
            low, high, power = (found[part] for part in channels_as(name))
            seen.add(low, high, power, batch.size)
        advance()
    rescalings = []
    done = any(step.smooths for _, step in plan.steps)
    for name, sites in readers.items():
        if done or any(is_on_grid(model, plan, site) for site in sites):
            continue
        weights = [torch.from_numpy(model.matrix(site).copy()) for site in sites]
        chosen = smooth(channels[name], weights, min(plan.limit(site.name) for site in sites))
        if chosen is not None:
            rescalings.append(Rescaling(sites, chosen.scale.numpy(), chosen.aside.numpy()))
    own_ranges = {sites[0].name for name, sites in readers.items() if uneven(channels[name])}
    return normalized(rescaled(model, rescalings), own_ranges)
