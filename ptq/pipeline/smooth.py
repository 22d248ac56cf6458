"""Smooth the inputs of products that find their 8-bit range anew at every call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from calibration.observers import Channels
from ptq import heap
from ptq.lowering import Execution
from ptq.model.blocks import Block, Look, cut
from ptq.model.graph import Model
from ptq.model.probe import channelled, channels_as
from ptq.model.rescale import Rescaling, normalized, rescaled
from ptq.model.sites import Site
from ptq.pipeline import together
from ptq.pipeline.boundary import Boundary
from ptq.pipeline.solved import is_on_grid
from ptq.pipeline.stages import Advance
from ptq.recipe import Plan
from ptq.smoothing import Smoothing, smooth, uneven


def smoothable(model: Model, executions: Mapping[str, Execution]) -> dict[str, list[Site]]:
    """The sites that read a tensor, by its name, where its channels may be scaled for them."""
    found: dict[str, list[Site]] = {}
    for site in model.sites:
        if executions[site.name] is Execution.DYNAMIC and model.has_own_weight(site):
            found.setdefault(site.uses[0].input, []).append(site)
    return {name: sites for name, sites in found.items() if model.shape(name) is not None}


def blocks_read(model: Model, readers: Iterable[str], most: int) -> list[Block]:
    """The blocks of a model, of up to `most` bytes but for single layers, in which these tensors are made."""
    return cut(model.graph, [Look((name,)) for name in readers], most)


@dataclass(frozen=True)
class Smoothings:
    """What inputs are divided by, as a scale and what is put aside, by name; and which need a range a vector."""

    chosen: Mapping[str, Smoothing]
    uneven: frozenset[str]


def smoothing(
    model: Model,
    plan: Plan,
    readers: Mapping[str, list[Site]],
    blocks: Iterable[Block],
    boundary: Boundary,
    advance: Advance = lambda: None,
) -> Smoothings:
    """How those inputs are smoothed for which it pays, found block by block on what crosses a boundary.

    Where a step of the recipe has scaled inputs, none is scaled again.
    """
    channels = {name: Channels.of(sites[0].columns) for name, sites in readers.items()}
    for block in blocks:
        here = {name: channels[name] for look in block.looks for name in look.tensors}
        for batch, found in boundary.run(block, channelled(block.graph(boundary.shapes()), here)):
            for name, seen in here.items():
                low, high, power = (torch.from_numpy(found[part]) for part in channels_as(name))
                seen.add(low, high, power, batch.size)
            advance()
        heap.trim()
    together.merge(channels)
    chosen = {}
    done = any(step.smooths for _, step in plan.steps)
    for name, sites in readers.items():
        if done or any(is_on_grid(model, plan, site) for site in sites):
            continue
        weights = [torch.from_numpy(model.matrix(site).copy()) for site in sites]
        found_here = smooth(channels[name], weights, min(plan.limit(site.name) for site in sites))
        if found_here is not None:
            chosen[name] = found_here
    return Smoothings(chosen, frozenset(name for name in readers if uneven(channels[name])))


def smoothed(model: Model, readers: Mapping[str, list[Site]], found: Smoothings) -> Model:
    """The model with inputs smoothed so."""
    rescalings = [
        Rescaling(readers[name], each.scale.numpy(), each.aside.numpy()) for name, each in found.chosen.items()
    ]
    return normalized(rescaled(model, rescalings), {readers[name][0].name for name in readers if name in found.uneven})
