"""Run the steps of a recipe before and after its method."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, TypeVar

from calibration.batch import Batch
from calibration.dataset import Dataset
from calibration.observers import Moment
from ptq.cache import Store
from ptq.lowering import Execution
from ptq.model.graph import Model
from ptq.model.save import digest
from ptq.model.sites import Site
from ptq.pipeline import together
from ptq.pipeline.calibrate import BATCH, calibrate
from ptq.pipeline.solved import SiteWeights, is_on_grid
from ptq.pipeline.stages import Advance, Stages
from ptq.recipe import MINMAX, Plan
from ptq.step import AFTER, BEFORE, Setting

T = TypeVar("T")


def check_steps(model: Model, plan: Plan) -> None:
    """Refuse a step after the method that has nothing to do; one before it says so when its turn comes, at once.

    Raises:
        OptionError: there is one.

    """
    for _, step in plan.steps:
        if step.when == AFTER:
            step.check(model, plan.methods)


@dataclass(frozen=True, eq=False)
class Steps:
    """The steps of a plan, with what they work on."""

    plan: Plan
    executions: Mapping[str, Execution]
    data: Dataset | None
    stages: Stages
    store: Store
    notes: list[str]
    """What they did, for the report."""

    def before(self, model: Model) -> Model:
        """The model after the steps before the method, in the order in which they were given."""
        for name, step in self._steps(BEFORE):
            with self.stages.stage(name) as advance:
                model, note = step.change(model, self.setting(model, (name, step), advance))
            self.notes.append(note)
        return model

    def after(self, model: Model, weights: Mapping[str, SiteWeights]) -> Mapping[str, SiteWeights]:
        """The weights with the biases of the steps after the method."""
        for name, step in self._steps(AFTER):
            with self.stages.stage(name) as advance:
                sizes = [(site, found.solved.sizes.path.name, found.rung) for site, found in weights.items()]
                made = {site: found.read() for site, found in weights.items()}
                shifts, note = step.shifts(model, self.setting(model, (name, step, sizes), advance), made)
            weights = {
                site: dataclasses.replace(found, bias_shift=shifts.get(site, found.bias_shift))
                for site, found in weights.items()
            }
            self.notes.append(note)
        return weights

    def _steps(self, when: str) -> Iterator[tuple[str, Any]]:
        return ((name, step) for name, step in self.plan.steps if step.when == when)

    def setting(self, model: Model, follows: tuple[object, ...], advance: Advance) -> Setting:
        """What a step is given; besides that, what it finds `follows` from the step itself."""

        @cache
        def given() -> tuple[object, ...]:
            data = None if self.data is None else self.data.fingerprint()
            return digest(model), data, self.plan.methods, self.executions, follows

        def kept(name: tuple[str, ...], make: Callable[[], T]) -> T:
            return together.get(self.store, "step", lambda: (given(), name), make)

        return Setting(
            self.plan.methods,
            self.executions,
            lambda site: is_on_grid(model, self.plan, site),
            self._batches,
            self._gather,
            self._moments,
            together.each,
            kept,
            advance,
        )

    def _batches(self) -> Iterable[Batch]:
        return () if self.data is None else self.data.batches(BATCH)

    def _own(self) -> Iterable[Batch]:
        return () if self.data is None else together.own(self.data, BATCH)

    def _gather(self, observers: Mapping[str, Any], see: Callable[[Batch], None]) -> None:
        for batch in self._own():
            see(batch)
        together.merge(observers)

    def _moments(self, model: Model, sites: Sequence[Site]) -> Mapping[str, Moment]:
        return calibrate(model, sites, (), MINMAX, self._own()).moments
