"""What is rounded to what while a model trains: recipes as data, the ablations of the papers among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final, Protocol

from torch import Tensor

from ptq import formats, registry
from ptq.errors import OptionError
from ptq.rounding import Rounding
from ptq.training import published
from ptq.training.gradients import Aligned, Alignment, Fixed, Squeezed
from ptq.training.grids import Maximum
from ptq.training.lognormal import Lognormal
from ptq.training.packing import packing
from ptq.training.sawb import Sawb
from ptq.training.unified import DirectionSensitive


class Rule(Protocol):
    """Rounds a tensor: its numbers in a low-bit format, in its shape and dtype."""

    def __call__(self, x: Tensor, /) -> Tensor:
        """As rounded."""


@dataclass(frozen=True, kw_only=True)
class TrainingRecipe:
    """The rule of every tensor around the three products of a layer; None leaves a tensor as it is.

    Forward: `output(product(activation(x), weight(w)))`. The backward pass takes the rounded tensors again, and the
    rounding itself for the identity, also where it clipped: the gradient of all numbers goes straight through, as in
    LUQ's published code. `gradient` rounds what comes from above, `product` what comes of the two backward products.

    The gradient of the weight takes the mean of `samples` draws of `gradient`, that of the input the first of them
    (SMP, arXiv:2112.10769). Unless `all_layers`, the first and the last layer stay in high precision. With `pack` the
    rounded activation and weight wait for the backward pass as codes (`ptq.training.packing`).
    """

    name: str
    weight: Rule | None
    activation: Rule | None
    gradient: Rule | None
    output: Rule | None = None
    product: Rule | None = None
    samples: int = 1
    all_layers: bool = False
    pack: bool = False

    def __post_init__(self) -> None:
        if self.samples < 1:
            raise OptionError(f"samples of recipe {self.name!r} must be 1 or more, got {self.samples}; set it to 1")
        for rule in (self.weight, self.activation, self.gradient, self.output, self.product):
            if (name := getattr(rule, "fmt", None)) is not None:
                fmt = formats.get(name)
                _ = fmt.values, fmt.codes  # computed now, once: torch.compile cannot follow how they are
        for rule in (self.activation, self.weight) if self.pack else ():
            try:
                packing(rule)
            except OptionError as error:
                raise OptionError(f"recipe {self.name!r} cannot be packed: {error}") from None


def _luq(name: str, gradient: Rule, samples: int = 1) -> TrainingRecipe:
    """LUQ's forward pass with some gradient."""
    return TrainingRecipe(name=name, weight=Sawb(), activation=Sawb(), gradient=gradient, samples=samples)


def _everywhere(name: str, rule: Rule, gradient: Rule) -> TrainingRecipe:
    """Truncation before and after every product, in all layers (arXiv:2001.05674, section 4.1)."""
    forward = TrainingRecipe(name=name, weight=rule, activation=rule, output=rule, gradient=gradient)
    return replace(forward, product=gradient, all_layers=True)


_LOSS_SCALE: Final = 100
"""Of the paper's CIFAR-10 runs (arXiv:2001.05674, table 1).

As all is linear between the loss and the gradients, scaling it is the same as rounding them on a finer grid.
"""

_INT8: Final = Maximum("int8")

_RECIPES: Final = (
    _luq("fp4-naive", Aligned(rounding=Rounding.NEAREST_AWAY, alignment=Alignment.POWER_BELOW)),
    _luq("fp4-sr", Aligned(alignment=Alignment.POWER_BELOW, underflow=False)),
    _luq("fp4-sr-su", Aligned(alignment=Alignment.POWER_BELOW)),
    _luq("int4-sr", Aligned("int4")),
    _luq("luq", Aligned()),
    _luq("luq-smp2", Aligned(), samples=2),
    TrainingRecipe(
        name="luq-published",
        weight=published.WEIGHTS,
        activation=published.ACTIVATIONS,
        gradient=Aligned("luq_fp4_paper"),
    ),
    TrainingRecipe(name="int8-unified", weight=_INT8, activation=_INT8, gradient=DirectionSensitive()),
    _luq("lognormal", Lognormal()),
    _everywhere("s2fp8", Squeezed(), Squeezed()),
    _everywhere("fp8", Fixed("fp8_e5m2"), Fixed("fp8_e5m2")),
    _everywhere("fp8-loss-scale", Fixed("fp8_e5m2"), Fixed("fp8_e5m2", 1 / _LOSS_SCALE)),
)

RECIPES: Final[Mapping[str, TrainingRecipe]] = MappingProxyType({recipe.name: recipe for recipe in _RECIPES})
"""Every recipe by name.

The `fp4` ones lack LUQ's max alignment; `fp4-naive` and `fp4-sr` its stochastic underflow too, and `fp4-naive` its
stochastic rounding.

`luq-published` has the sizes of LUQ's released code, each a little more than 4 bits: gradients of 8 powers, weights of
17 integers, activations of 16 or 24. Its maximum of the gradient without the sign is ours.

`int8-unified` is in the style of Unified INT8 training (arXiv:1912.12607): all in 8 bits, weights and activations by
their maximum, gradients with the clip that turns them least, but without the paper's scaling of learning rates.

`lognormal` has gradients of 6 bits, pruned to a half before (arXiv:2006.08173). The paper says nothing of the rest;
weights and activations are those of LUQ, so that the two compare.
"""


def get(name: str) -> TrainingRecipe:
    """The recipe of that name.

    Raises:
        OptionError: there is none.

    """
    return registry.get("training recipe", name, RECIPES)
