"""Bias correction on data: each layer's mean output is brought back to what it is in float, from the first to the last.

That is the empirical correction of DFQ (Nagel et al. 2019, arXiv:1906.04721, section 4.2 and appendix D). Every method
puts the mean error of a layer by itself, on inputs as they are in float, into its bias. Here the inputs are those of
the network whose earlier layers are quantized and corrected, so that what their errors have added up to is taken out
too. Layers that are not behind each other are corrected together: the data run once through the network up to each
depth, half the depth times the time of a plain run. Activations are not rounded for it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
import torch

from calibration.batch import Batch
from calibration.observers import Mean
from ptq.errors import OptionError
from ptq.model.depth import depths
from ptq.model.graph import Model
from ptq.model.probe import averaged, mean_as
from ptq.model.sites import Site
from ptq.qtensor import QTensor
from ptq.step import AFTER, Setting


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

    def shifts(
        self, model: Model, setting: Setting, weights: Mapping[str, QTensor]
    ) -> tuple[Mapping[str, np.ndarray], str]:
        """What the biases gain so that all means are as in float on the calibration data.

        Raises:
            OptionError: no quantized layer has a bias of its own.

        """
        sites = [site for site in model.sites if site.name in weights and model.has_own_bias(site)]
        if not sites:
            raise OptionError("--step bias-correction finds no quantized layer with a bias of its own; leave it out")
        expected = _means(model, sites, setting.batches())
        arrays = {}
        for site in model.sites:
            if site.name in weights:
                arrays[site.weight] = site.tensor(weights[site.name].dequantize().numpy())
        shifts: dict[str, np.ndarray] = {}
        for together in _by_depth(model, sites):
            means = _means(model.with_initializers(arrays), together, setting.batches())
            for site in together:
                bias = str(site.uses[0].bias)
                old = model.initializer(bias)
                shifts[site.name] = (expected[site.name] - means[site.name]).astype(np.float32)
                arrays[bias] = (old + shifts[site.name].reshape(old.shape)).astype(np.float32)
            setting.advance()
        count = len(sites)
        return shifts, f"bias-correction: means of {count} layer{'s' * (count > 1)} as in float on the calibration data"


def _by_depth(model: Model, sites: Iterable[Site]) -> list[list[Site]]:
    """The sites in groups of which none has a site in front of another."""
    by_node = {site.uses[0].node: site for site in sites}
    found: dict[int, list[Site]] = {}
    for node, depth in depths(model, by_node).items():
        found.setdefault(depth, []).append(by_node[node])
    return [found[depth] for depth in sorted(found)]


def _means(model: Model, sites: Iterable[Site], batches: Iterable[Batch]) -> dict[str, np.ndarray]:
    """The mean of each site's output by channel, float64 `(out,)`; of a MatMul without its bias."""
    outputs = {site.name: site.uses[0].output for site in sites}
    axes = {site.uses[0].output: -1 if site.uses[0].geometry is None else 1 for site in sites}
    session = averaged(model.graph, axes)
    means = {name: Mean() for name in outputs}
    for batch in batches:
        found = dict(zip(session.outputs, map(torch.from_numpy, session.run(batch.feeds)), strict=True))
        for name, output in outputs.items():
            values = found[mean_as(output)]
            means[name].add(values.flatten(1).mean(0) if axes[output] == 1 else values, batch.size)
    return {name: mean.result().numpy() for name, mean in means.items()}


STEP = BiasCorrection
