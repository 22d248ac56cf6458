"""SmoothQuant: what makes an activation hard to round moves into the weights (arXiv:2211.10438, section 4).

The channels of an input are divided by `s = max|X|^alpha / max|W|^(1 - alpha)`, over all products that share it, and
the weights take `s`. The division goes into the LayerNormalization or Mul in front, or the layer in front, where
nothing else reads the input; else it is a Mul. Products with 8-bit ranges of their own at every call are smoothed
without this step too, with the strength of least expected error; with it, they are as it leaves them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Final, Self

import torch
from torch import Tensor

from calibration.batch import Batch
from calibration.observers import Channels
from ptq.errors import OptionError
from ptq.lowering import Execution
from ptq.model.graph import Model
from ptq.model.probe import channelled, channels_as
from ptq.model.sites import Site
from ptq.step import BEFORE, Setting, folded, shared_inputs

_ROUNDED: Final = frozenset({Execution.STATIC, Execution.DYNAMIC, Execution.SIMULATED, Execution.QDQ})
_LEAST: Final = 1e-5


@dataclass(frozen=True)
class SmoothQuant:
    """The step, with the strength `alpha`."""

    OPTIONS: ClassVar[frozenset[str]] = frozenset({"alpha"})
    when: ClassVar[str] = BEFORE
    needs_data: ClassVar[bool] = True
    smooths: ClassVar[bool] = True

    alpha: float = 0.5

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """The step with the strength that is said.

        Raises:
            OptionError: it is not from 0 to 1.

        """
        alpha = options.get("alpha")
        if alpha is None:
            return cls()
        if not 0 <= alpha <= 1:
            raise OptionError(f"--alpha {alpha:g} is not from 0 to 1; give for example 0.5")
        return cls(alpha)

    def change(self, model: Model, setting: Setting) -> tuple[Model, str]:
        """The model with smooth inputs of its products.

        Raises:
            OptionError: no product rounds its input.

        """
        inputs = shared_inputs(model, setting, _ROUNDED)
        if not inputs:
            raise OptionError(
                "--step smoothquant finds no product with a weight of its own whose input is rounded; leave it out"
            )
        seen = setting.kept(("extremes", *inputs), partial(_seen, model, setting, inputs))
        factors = {}
        for name, sites in inputs.items():
            largest = torch.maximum(-seen[name].low, seen[name].high)
            weight = torch.stack([torch.from_numpy(abs(model.matrix(site)).max(0)) for site in sites]).amax(0)
            factors[name] = strengths(largest, weight, self.alpha)
        return folded(model, setting, inputs, factors, "smoothquant")


def _seen(model: Model, setting: Setting, inputs: Mapping[str, Sequence[Site]]) -> dict[str, Channels]:
    """The channels of the inputs."""
    seen = {name: Channels.of(sites[0].columns) for name, sites in inputs.items()}
    session = channelled(model.graph, seen)

    def see(batch: Batch) -> None:
        found = dict(zip(session.outputs, map(torch.from_numpy, session.run(batch.feeds)), strict=True))
        for name, channels in seen.items():
            low, high, power = (found[part] for part in channels_as(name))
            channels.add(low, high, power, batch.size)
        setting.advance()

    setting.gather(seen, see)
    return seen


def strengths(largest: Tensor, weight: Tensor, alpha: float) -> Tensor:
    """What channels are divided by `(in,)`: of the largest magnitudes of an input and of the weights, both `(in,)`."""
    return (largest.clamp_min(_LEAST) ** alpha / weight.clamp_min(_LEAST) ** (1 - alpha)).clamp_min(_LEAST)


STEP = SmoothQuant
