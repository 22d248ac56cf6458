"""What a step of `ptq.steps` is: something done to a model before its weights are quantized, or to biases after."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from torch import Tensor

from calibration.batch import Batch
from calibration.observers import Moment
from ptq.lowering import Execution
from ptq.method import Method
from ptq.model.graph import Model
from ptq.model.rescale import Rescaling, rescaled
from ptq.model.sites import PRODUCTS, Site
from ptq.qtensor import QTensor

BEFORE, AFTER = "before", "after"


@dataclass(frozen=True, eq=False)
class Setting:
    """What is known when a step works: by site its method (None stays float) and how it computes; and the data.

    Nothing may be multiplied into the weight of a site that is `on_grid`. `batches` begins the calibration data anew;
    without data there are none. What follows is shared among the processes of a run, and the same in all: `gather`
    shows the batches to a function that lets observers see them, `moments` gathers the second moments of the inputs of
    sites of a model, and `each` finds something for each of several things, by what they cost. What a function makes is
    `kept` under a name that tells apart what one step keeps: a run after one that was killed does not make it again.
    """

    methods: Mapping[str, Method | None]
    executions: Mapping[str, Execution]
    on_grid: Callable[[Site], bool]
    batches: Callable[[], Iterable[Batch]]
    gather: Callable[[Mapping[str, Any], Callable[[Batch], None]], None]
    moments: Callable[[Model, Sequence[Site]], Mapping[str, Moment]]
    each: Callable[[Mapping[str, float], Callable[[str], Any]], Mapping[str, Any]]
    kept: Callable[[tuple[str, ...], Callable[[], Any]], Any]
    advance: Callable[[], None] = lambda: None


class Step(Protocol):
    """A frozen dataclass; `OPTIONS` are the options of a recipe that it reads."""

    OPTIONS: ClassVar[frozenset[str]]
    when: ClassVar[str]
    needs_data: ClassVar[bool]
    smooths: ClassVar[bool]
    """Whether it scales inputs, so that they are not smoothed besides."""

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Self:
        """The step with those options, None where the user does not say.

        Raises:
            OptionError: one is out of range.

        """


class Before(Step, Protocol):
    """A step before any method: the same function up to the rounding of floats, of weights that are easier to round."""

    def change(self, model: Model, setting: Setting) -> tuple[Model, str]:
        """A copy of the model with other weights, and what was done, for the report.

        Raises:
            OptionError: it finds nothing to do.

        """


class After(Step, Protocol):
    """A step after any method: other biases."""

    def check(self, model: Model, methods: Mapping[str, Method | None]) -> None:
        """Refuse a model for which it has nothing to do, before hours are spent on the rest.

        Raises:
            OptionError: it is one.

        """

    def shifts(
        self, model: Model, setting: Setting, weights: Mapping[str, QTensor]
    ) -> tuple[Mapping[str, np.ndarray], str]:
        """By site what its bias gains `(out,)`, where that is another than the method's, and what was done."""


def shared_inputs(model: Model, setting: Setting, executions: Container[Execution]) -> dict[str, list[Site]]:
    """By the tensor that they read, the matrix products that compute so and may be scaled: all of them, or none."""
    found: dict[str, list[Site]] = {}
    for site in model.sites:
        if site.op in PRODUCTS and model.has_own_weight(site) and setting.executions[site.name] in executions:
            found.setdefault(site.uses[0].input, []).append(site)
    return {
        name: sites
        for name, sites in found.items()
        if model.shape(name) is not None and not any(setting.on_grid(site) for site in sites)
    }


def folded(
    model: Model, setting: Setting, inputs: Mapping[str, Sequence[Site]], factors: Mapping[str, Tensor], name: str
) -> tuple[Model, str]:
    """The model with inputs divided by factors `(in,)`, and what was done."""
    layers = {site.uses[0].node for site in model.sites if model.has_own_weight(site) and not setting.on_grid(site)}
    rescalings = [Rescaling(sites, (1 / factors[name]).numpy()) for name, sites in inputs.items()]
    made = rescaled(model, rescalings, layers)
    count, added = len(inputs), len(made.graph.graph) - len(model.graph.graph)
    note = f"{name}: {count} input{'s' * (count > 1)} scaled"
    return made, f"{note}, {added} by a Mul of {'its' if added == 1 else 'their'} own" if added else note
