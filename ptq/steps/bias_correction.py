"""Bias correction on data: each layer's mean output is brought back to what it is in float, from the first to the last.

That is the empirical correction of DFQ (Nagel et al. 2019, arXiv:1906.04721, section 4.2 and appendix D). Every method
puts the mean error of a layer by itself, on inputs as they are in float, into its bias. Here the inputs are those of
the network whose earlier layers are quantized and corrected, so that what their errors have added up to is taken out
too. Means are compared behind the function that reads the output, where it is a known one: those in front of it are of
numbers that a Relu throws away, and matching them costs EfficientNet-Lite0 in int4 most of what it can tell.

Layers that are not behind each other are corrected together: the data run once through the network up to each depth,
half the depth times the time of a plain run. Activations are not rounded for it. What is matched is the data's own:
on photographs of other things than those it is to tell apart, the same network gains nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Final, Self

import numpy as np
import torch
from torch import Tensor

from calibration.batch import Batch
from calibration.observers import Mean
from ptq.errors import OptionError
from ptq.method import Method
from ptq.model.depth import depths
from ptq.model.functions import Function, behind, same
from ptq.model.graph import Model
from ptq.model.probe import sampled, sampled_as
from ptq.model.sites import MATMUL, Site
from ptq.qtensor import QTensor
from ptq.step import AFTER, Setting

_SAMPLES: Final = 512
_POSITIONS: Final = 64
"""Samples, and positions of each, that means are taken from: what is kept does not grow with the data."""

_STEPS: Final = 6
_DAMPING: Final = 0.02
_APART: Final = 0.01
_NEAR: Final = 1e-4
_TINY: Final = 1e-30


@dataclass(frozen=True)
class BiasCorrection:
    """The step."""

    OPTIONS: ClassVar[frozenset[str]] = frozenset()
    when: ClassVar[str] = AFTER
    needs_data: ClassVar[bool] = True
    smooths: ClassVar[bool] = False

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:  # noqa: ARG003  (it reads none)
        """There is one way."""
        return cls()

    def check(self, model: Model, methods: Mapping[str, Method | None]) -> None:
        """Refuse a model without biases.

        Raises:
            OptionError: no layer that is quantized has a bias of its own.

        """
        if not any(methods[site.name] is not None and model.has_own_bias(site) for site in model.sites):
            raise OptionError("--step bias-correction finds no quantized layer with a bias of its own; leave it out")

    def shifts(
        self, model: Model, setting: Setting, weights: Mapping[str, QTensor]
    ) -> tuple[Mapping[str, np.ndarray], str]:
        """What the biases gain so that all means are as in float on the calibration data."""
        sites = [site for site in model.sites if site.name in weights and model.has_own_bias(site)]
        functions = {site.name: behind(model, site.uses[0]) for site in sites}
        expected = setting.kept(("means",), partial(_expected, model, setting, sites, functions))
        arrays = {
            site.weight: site.tensor(weights[site.name].dequantize().numpy())
            for site in model.sites
            if site.name in weights
        }
        shifts: dict[str, np.ndarray] = {}
        for together in _by_depth(model, sites):
            names = [site.name for site in together]
            matched = partial(_matched, model, setting, together, functions, expected, arrays)
            shifts |= setting.kept(("shifts", *names), matched)
            for site in together:
                bias = str(site.uses[0].bias)
                old = model.initializer(bias)
                arrays[bias] = (old + shifts[site.name].reshape(old.shape)).astype(np.float32)
            setting.advance()
        layers = f"{len(sites)} layer{'s' * (len(sites) != 1)}"
        return shifts, f"bias-correction: means of {layers} as in float on the calibration data"


def _expected(
    model: Model, setting: Setting, sites: Sequence[Site], functions: Mapping[str, Function]
) -> dict[str, Tensor]:
    """The mean output of each site in float, behind its function."""
    means = {site.name: Mean() for site in sites}
    for found in _samples(model, sites, setting.batches()):
        for name, values in found.items():
            means[name].add(functions[name](values).mean(1), values.shape[1])
    return {name: mean.result() for name, mean in means.items()}


def _matched(
    model: Model,
    setting: Setting,
    sites: Sequence[Site],
    functions: Mapping[str, Function],
    expected: Mapping[str, Tensor],
    arrays: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """What the bias of each site gains where the weights and biases of others are those of `arrays`."""
    made = list(_samples(model.with_initializers(arrays), sites, setting.batches()))
    shifts = {}
    for site in sites:
        values = torch.cat([found.pop(site.name) for found in made], 1)
        shifts[site.name] = matching(values, functions[site.name], expected[site.name]).float().numpy()
    return shifts


def matching(values: Tensor, function: Function, means: Tensor) -> Tensor:
    """What to add to values `(n, samples)` so that the means of a function of them are these, `(n,)`.

    It is found by damped Newton steps, of which none is kept that does not bring the mean closer; the next one is then
    shorter. Where the function is all but flat they are short of it, so that a channel that is hardly ever active stays
    so; where it falls, as GELU and SiLU do below -1, they go the other way.
    """
    if function is same:
        return (means - values.double().mean(1)).float()
    shift, trust = torch.zeros(len(values), 1), torch.ones(len(values), 1)
    reach = values.square().mean(1, keepdim=True).sqrt() + means[:, None].abs().float()
    here = function(values).mean(1, keepdim=True)
    for _ in range(_STEPS):
        missing = means[:, None].float() - here
        if bool((missing.abs() <= _NEAR * reach).all()):
            break
        apart = _APART * reach + _TINY
        slope = (function(values + (shift + apart)).mean(1, keepdim=True) - here) / apart
        rising, falling = missing / (slope + _DAMPING), missing * slope / (slope.square() + _DAMPING**2)
        tried = shift + trust * torch.where(slope >= 0, rising, falling).clamp(-reach, reach)
        there = function(values + tried).mean(1, keepdim=True)
        left, before = (means[:, None].float() - there).abs(), missing.abs()
        closer = left < before
        shift, here = torch.where(closer, tried, shift), torch.where(closer, there, here)
        trust = torch.where(closer, 1.0, trust * before / (before + left + _TINY))
    return shift[:, 0]


def _by_depth(model: Model, sites: Iterable[Site]) -> list[list[Site]]:
    """The sites in groups of which none has a site in front of another."""
    by_node = {site.uses[0].node: site for site in sites}
    found: dict[int, list[Site]] = {}
    for node, depth in depths(model, by_node).items():
        found.setdefault(depth, []).append(by_node[node])
    return [found[depth] for depth in sorted(found)]


def _samples(model: Model, sites: Sequence[Site], batches: Iterable[Batch]) -> Iterator[dict[str, Tensor]]:
    """Batch by batch, numbers of each site's output with its bias `(out, samples)`: of images some, evenly spread."""
    uses = {site.name: site.uses[0] for site in sites}
    session = sampled(model.graph, {use.output: _POSITIONS for use in uses.values()})
    biases = {site.name: _added(model, site) for site in sites}
    left = _SAMPLES
    for batch in batches:
        if left <= 0:
            return
        left -= batch.size
        found = dict(zip(session.outputs, map(torch.from_numpy, session.run(batch.feeds)), strict=True))
        made = {}
        for name, use in uses.items():
            values = found[sampled_as(use.output)].movedim(-1 if use.geometry is None else 1, 0).flatten(1)
            made[name] = values[:, :: -(-values.shape[1] // (batch.size * _POSITIONS))] + biases[name]
        yield made


def _added(model: Model, site: Site) -> Tensor:
    """What is added to a MatMul behind it, `(out, 1)`; 0 for others, which add their bias themselves."""
    bias = site.uses[0].bias
    if site.op != MATMUL or bias is None:
        return torch.zeros(1, 1)
    return torch.from_numpy(model.initializer(bias).reshape(-1, 1).copy())


STEP = BiasCorrection
