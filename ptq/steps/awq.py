"""AWQ: channels of large activations get finer weights (arXiv:2306.00978, section 3.2).

Weights are multiplied by `s = mean|X|^r`, channel by channel, and the input divided by it, with the `r` of a grid of 20
for which rounding the weights to nearest does least to the outputs: `tr(dW H dW^T)` with `dW = Q(W s) / s - W` and the
second moment `H` of the input, summed over all products that share it. The division goes into the LayerNormalization
or Mul in front, or the layer in front, where nothing else reads the input; else it is a Mul, which has to be worth it.
The paper's search for a clip is the one for scales that every method has.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Final, Self

import torch
from torch import Tensor

from calibration.batch import Batch
from calibration.observers import Mean, Moment
from ptq.errors import OptionError
from ptq.lowering import Execution
from ptq.model.graph import Model
from ptq.model.probe import magnitude_as, magnitudes
from ptq.model.sites import Site
from ptq.scheme import Scheme
from ptq.solve import NEAREST, Curvature, one_term
from ptq.step import BEFORE, Setting, folded, shared_inputs

_STRENGTHS: Final = tuple(step / 20 for step in range(20))
_LEAST: Final = 1e-4
_WORTH: Final = 0.9
"""What has to be left of the error for a Mul to pay for its time."""

_ROWS: Final = 512
"""Rows of a weight that its error is taken from."""

_MOMENT_BYTES: Final = 1 << 28
"""What second moments may take together; the data are gone through once for each such part."""


@dataclass(frozen=True)
class Awq:
    """The step."""

    OPTIONS: ClassVar[frozenset[str]] = frozenset()
    when: ClassVar[str] = BEFORE
    needs_data: ClassVar[bool] = True
    smooths: ClassVar[bool] = True

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:  # noqa: ARG003  (it reads none)
        """There is one way."""
        return cls()

    def change(self, model: Model, setting: Setting) -> tuple[Model, str]:
        """The model with weights scaled by the activations they meet.

        Raises:
            OptionError: there is no product, or none gains.

        """
        inputs = shared_inputs(model, setting, frozenset(Execution) - {Execution.FLOAT, Execution.LOOKUP})
        if not inputs:
            raise OptionError("--step awq finds no quantized matrix product with a weight of its own; leave it out")
        sizes = setting.kept(("magnitudes", *inputs), partial(_magnitudes, model, inputs, setting))
        found: dict[str, tuple[float, Tensor]] = {}
        for part in _parts(inputs):
            found |= setting.kept(("factors", *part), partial(_searched, model, setting, inputs, sizes, part))
        paying = {name: sites for name, sites in inputs.items() if found[name][0] < _WORTH}
        if not paying:
            raise OptionError("--step awq finds no input whose channels differ enough for it to gain; leave it out")
        return folded(model, setting, paying, {name: factors for name, (_, factors) in found.items()}, "awq")


def strengths(size: Tensor, strength: float) -> Tensor:
    """Factors `(in,)` of the mean magnitudes of channels, around 1."""
    factors = (size**strength).clamp_min(_LEAST)
    return factors / (factors.max() * factors.min()).sqrt()


def _magnitudes(model: Model, inputs: Mapping[str, Sequence[Site]], setting: Setting) -> dict[str, Tensor]:
    """The mean magnitude of each channel of the inputs."""
    session = magnitudes(model.graph, inputs)
    means = {name: Mean() for name in inputs}

    def see(batch: Batch) -> None:
        found = dict(zip(session.outputs, map(torch.from_numpy, session.run(batch.feeds)), strict=True))
        for name, mean in means.items():
            mean.add(found[magnitude_as(name)], batch.size)

    setting.gather(means, see)
    return {name: mean.result().float() for name, mean in means.items()}


def _parts(inputs: Mapping[str, Sequence[Site]]) -> Iterator[list[str]]:
    """The inputs in parts whose second moments fit into memory together."""
    part: list[str] = []
    used = 0
    for name, sites in inputs.items():
        size = sites[0].columns ** 2 * torch.float64.itemsize
        if part and used + size > _MOMENT_BYTES:
            yield part
            part, used = [], 0
        part.append(name)
        used += size
    yield part


def _cost(sites: Sequence[Site]) -> float:
    """About what it takes to try the products with an input."""
    return float(sum(min(site.rows, _ROWS) * site.columns**2 for site in sites))


def _searched(
    model: Model,
    setting: Setting,
    inputs: Mapping[str, Sequence[Site]],
    sizes: Mapping[str, Tensor],
    part: Sequence[str],
) -> Mapping[str, tuple[float, Tensor]]:
    """What `_best` finds for each input of a part."""
    moments = setting.moments(model, [inputs[name][0] for name in part])
    best = partial(_best, model, setting, inputs, moments, sizes)
    return setting.each({name: _cost(inputs[name]) for name in part}, best)


def _best(
    model: Model,
    setting: Setting,
    inputs: Mapping[str, Sequence[Site]],
    moments: Mapping[str, Moment],
    sizes: Mapping[str, Tensor],
    name: str,
) -> tuple[float, Tensor]:
    """What the factors of least error leave of it for the products with an input, and those factors."""
    tasks, moment = [], moments[inputs[name][0].name]
    for site in inputs[name]:
        method = setting.methods[site.name]
        if method is None:
            raise AssertionError
        weight = torch.from_numpy(model.matrix(site).copy())
        gram = moment.centred() if model.has_own_bias(site) else moment.gram
        tasks.append((weight[:: -(-len(weight) // _ROWS)], method.scheme, gram[0].float()))
    candidates = [strengths(sizes[name], strength) for strength in _STRENGTHS]
    errors = [sum(_error(*task, factors) for task in tasks) for factors in candidates]
    least = min(errors)
    setting.advance()
    return least / errors[0] if errors[0] else 1.0, candidates[errors.index(least)]


def _error(weight: Tensor, scheme: Scheme, gram: Tensor, factors: Tensor) -> float:
    """What rounding a weight `(out, in)` times factors does to the output, its input divided by them."""
    scaled = (weight * factors)[None]
    ladder = one_term(scaled, scheme, Curvature.unknown(1, weight.shape[1]), rounding=NEAREST)
    change = ladder.pick(ladder.all_on(0)).dequantize() / factors - weight
    return float(((change @ gram) * change).sum())


STEP = Awq
