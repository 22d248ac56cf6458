"""What was decided for the sites of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ptq import scheme
from ptq.lowering.target import Pair
from ptq.method import Method
from ptq.recipe.options import ABOVE_BASE, METHODS

if TYPE_CHECKING:
    from ptq.recipe.recipe import Recipe


@dataclass(frozen=True)
class Plan:
    """What was decided: the method of each site (None stays float), why, and what activations are."""

    methods: Mapping[str, Method | None]
    reasons: Mapping[str, str]
    activations: str
    recipe: Recipe
    pair: Pair | None = None
    """What a target computes with that takes only some pairs."""
    steps: tuple[Any, ...] = ()
    """What is done before and after, in order."""

    @property
    def measures(self) -> bool:
        """Whether bits go to the sites that matter most to the output, which takes samples that nothing else saw."""
        bits = "bits" in METHODS[self.recipe.method].METHOD.OPTIONS
        return bits and self.recipe.points is None and self.recipe.tolerance is None

    @property
    def budget(self) -> float:
        """Average bits per weight to spend when neither tolerance nor points say how many."""
        return self.recipe.bits or scheme.parse(self.recipe.weights).bits + ABOVE_BASE
