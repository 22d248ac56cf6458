"""What a run made, before it is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from calibration.dataset import Dataset
from ptq.lowering import TARGETS, Checks, Execution, Target
from ptq.model.graph import Model
from ptq.pipeline.solved import SiteWeights
from ptq.recipe import Plan


@dataclass(frozen=True, eq=False)
class Made:
    """All that a run made, for the report to describe."""

    source: Any
    model: Model
    plan: Plan
    executions: Mapping[str, Execution]
    weights: Mapping[str, SiteWeights]
    lowered: Model
    data: Dataset | None
    evaluation: Dataset | None
    rounded: int
    """How many layers round their inputs in the model as it came."""
    kept: int
    """How many activations have the grid of that rounding."""
    steps: tuple[str, ...] = ()
    """What the steps before and after the method did."""
    metrics: tuple[str, ...] = ()
    """The scores that were asked for."""

    @property
    def target(self) -> Target:
        """What the file is for."""
        return TARGETS[self.plan.recipe.target]

    @property
    def elsewhere(self) -> str | None:
        """The same where it is not measured here."""
        return self.target.name if self.target.checks is Checks.AS_WRITTEN else None
