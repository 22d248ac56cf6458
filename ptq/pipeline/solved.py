"""Every site of a plan in all sizes that it can have: one at a time in memory, all on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from calibration.observers import Moment
from ptq import formats, heap
from ptq.cache import Kept, Store
from ptq.devices import CPU, Following, brought
from ptq.ladder import Ladder
from ptq.lowering import Execution
from ptq.method import Method
from ptq.model.graph import Model
from ptq.model.sites import Site
from ptq.pipeline import together
from ptq.pipeline.calibrate import Statistics
from ptq.pipeline.distributions import Shown, shown
from ptq.pipeline.finite import check_matrix
from ptq.pipeline.stages import Advance, Stages
from ptq.qtensor import QTensor
from ptq.ranges import affine
from ptq.recipe import Plan
from ptq.solve import Curvature, on_grid

_MOST_BIAS_STEPS = 2.0**30


@dataclass(frozen=True, eq=False)
class Given:
    """What the weights of all sites are quantized from, and where they are kept."""

    model: Model
    plan: Plan
    executions: Mapping[str, Execution]
    statistics: Statistics | None
    store: Store
    device: str = CPU
    """Where each site is solved."""


@dataclass(frozen=True, eq=False)
class Sizes:
    """What is kept of a site: its ladder, and how it looks to people where there is one size."""

    ladder: Ladder
    shown: Shown | None


@dataclass(frozen=True, eq=False)
class Solved:
    """A site in all its sizes; those in memory, `ladder`, have no numbers (`Ladder.outlined`)."""

    site: Site
    ladder: Ladder
    sizes: Kept[Sizes]
    model: Model
    execution: Execution
    measured: bool
    mean: Tensor | None
    """Mean input `(groups, in)`, when the site has a bias of its own that can take up the mean error."""

    def matrix(self) -> Tensor:
        """The weight in float, `(out, in)`."""
        return matrix_of(self.model, self.site)

    def full(self) -> Ladder:
        """The sizes with their numbers."""
        return self.sizes.load().ladder

    def pick(self, rung: Tensor) -> SiteWeights:
        """The site with each row on a rung."""
        shift = None if self.mean is None else shift_of(self.matrix() - self.full().pick(rung).dequantize(), self.mean)
        error = self.ladder.error.gather(0, rung[None]).double().sum()
        power = float(self.ladder.power.double().sum())
        return SiteWeights(self, rung, shift, float(error), power)


@dataclass(frozen=True, eq=False)
class SiteWeights:
    """A quantized site: what its bias gains `(out,)`, error and power of its output.

    Where `measured` is not so, these are of the weight itself.
    """

    solved: Solved
    rung: Tensor
    bias_shift: np.ndarray | None
    error: float
    power: float

    def read(self) -> QTensor:
        """The weight."""
        return self.solved.full().pick(self.rung)

    @property
    def outline(self) -> QTensor:
        """The weight without its numbers, which says what it takes."""
        return self.solved.ladder.pick(self.rung)

    @property
    def measured(self) -> bool:
        """Whether error and power are those of the output."""
        return self.solved.measured

    def arrays(self) -> dict[str, np.ndarray]:
        """The initializers of the graph with the weight in float again."""
        return arrays_of(self.solved.model, self.solved.site, self.read().dequantize(), self.bias_shift)

    def shown(self) -> Shown:
        """How it looks to people."""
        kept = self.solved.sizes.load().shown
        return kept or shown(self.solved.matrix(), self.read(), self.solved.execution)


def shift_of(residual: Tensor, mean: Tensor) -> np.ndarray:
    """What a bias takes up of a residual `(out, in)` where that is the mean input `(groups, in)`; `(out,)`."""
    apart = residual.double().reshape(len(mean), -1, mean.shape[1])
    shift: np.ndarray = (apart @ mean.double()[:, :, None]).reshape(-1).float().numpy()
    return shift


def arrays_of(model: Model, site: Site, weight: Tensor, shift: np.ndarray | None) -> dict[str, np.ndarray]:
    """The initializers of the graph for another weight `(out, in)` of a site, where the bias gains a shift `(out,)`."""
    arrays, bias = {site.weight: site.tensor(weight.numpy())}, site.uses[0].bias
    if shift is not None and bias is not None:
        old = model.initializer(bias)
        arrays[bias] = (old + shift.reshape(old.shape)).astype(np.float32)
    return arrays


def matrix_of(model: Model, site: Site) -> Tensor:
    """The weight of a site in float, `(out, in)`.

    Raises:
        ModelError: it has numbers that no format holds.

    """
    array = np.require(model.matrix(site), np.float32, ("C", "W"))
    check_matrix(site, array)
    return torch.from_numpy(array)


def solved_sites(given: Given, stages: Stages) -> dict[str, Solved]:
    """Every site that is quantized, in all sizes that it can have."""
    chosen = [site for site in given.model.sites if given.plan.methods[site.name] is not None]
    with stages.stage("quantize", len(chosen)) as advance:
        return solve(given, chosen, advance)


def solve(given: Given, sites: Sequence[Site], advance: Advance = lambda: None) -> dict[str, Solved]:
    """Some sites in all their sizes; several ranks do each a part of them, and have all in the end."""
    own = together.dealt({site.name: _cost(given.plan, site) for site in sites})
    kept, solved = {}, {}
    for site in sites:
        if site.name in own:
            kept[site.name] = _sizes(given, site)
            solved[site.name] = _solved(given, site, kept[site.name])
            heap.trim()
        advance()
    others = {name: each for name, each in together.exchanged(given.store, kept).items() if name not in kept}
    return {site.name: solved.get(site.name) or _solved(given, site, others[site.name]) for site in sites}


def _cost(plan: Plan, site: Site) -> float:
    """About what it takes to solve a site; a method that looks at moments passes all inputs for each of them."""
    method = plan.methods[site.name]
    measured = method is not None and "moment" in method.needs
    return float(site.rows * site.columns * (site.columns if measured else 1))


@dataclass(frozen=True, eq=False)
class Question:
    """All that the sizes of a site follow from; `weight` is `(groups, rows, in)`."""

    weight: Tensor
    method: Method
    points: int | None
    most: int
    least_scale: Tensor | None
    moment: Moment | None
    centred: bool
    execution: str
    device: str

    def answer(self) -> Sizes:
        """The sizes."""
        if self.device == CPU:
            ladder = self._made()
        else:
            weight, least, moment = brought((self.weight, self.least_scale, self.moment), self.device)
            there = replace(self, weight=weight, least_scale=least, moment=moment)
            with Following():
                ladder = brought(there._made(), CPU)
        if len(ladder.rungs) > 1:
            return Sizes(ladder, None)
        only = ladder.pick(ladder.all_on(0))
        return Sizes(ladder, shown(self.weight.flatten(0, 1), only, Execution(self.execution)))

    def _made(self) -> Ladder:
        """The sizes in numbers, on the device where the weight is."""
        span = self.method.scheme.format.span
        if self.moment is None:
            curvature = Curvature.unknown(len(self.weight), self.weight.shape[2])
        else:
            gram = self.moment.centred() if self.centred else self.moment.gram
            curvature = Curvature.of(gram, self.moment.count, span)
        return self._ladder(curvature)

    def _ladder(self, curvature: Curvature) -> Ladder:
        """A weight as it is where it lies on a grid of the format, else as the method makes it."""
        least = self.least_scale
        exact = on_grid(self.weight, self.method.scheme, curvature, self.most)
        if exact is not None and (least is None or bool((exact.rungs[0][0].scale >= least).all())):
            return exact
        return self.method.ladder(self.weight, curvature, points=self.points, least_scale=least)


def _sizes(given: Given, site: Site) -> Kept[Sizes]:
    """A site in its sizes, those of before where it is the same."""
    model = given.model
    method = given.plan.methods[site.name]
    if method is None:
        raise AssertionError
    moment = _moment(given, site)
    question = Question(
        matrix_of(model, site).reshape(site.groups, -1, site.columns),
        method,
        given.plan.sites[site.name].said.points,
        most_steps(given.plan),
        _least_scale(given, site),
        moment,
        moment is not None and model.has_own_bias(site),
        given.executions[site.name].value,
        given.device,
    )
    return given.store.keep("layer", lambda: question, question.answer)


def _solved(given: Given, site: Site, sizes: Kept[Sizes]) -> Solved:
    known, mean, measured = given.statistics, None, False
    if known is not None:
        mean = known.means.get(site.name) if given.model.has_own_bias(site) else None
        measured = site.name in known.moments
    ladder = sizes.load().ladder.outlined()
    return Solved(site, ladder, sizes, given.model, given.executions[site.name], measured, mean)


def _moment(given: Given, site: Site) -> Moment | None:
    return None if given.statistics is None else given.statistics.moments.get(site.name)


def is_on_grid(model: Model, plan: Plan, site: Site) -> bool:
    """Whether a weight is stored as it is, so that nothing may be multiplied into it before."""
    method = plan.methods[site.name]
    if method is None:
        return False
    weight = torch.from_numpy(np.array(model.matrix(site), np.float32)).reshape(site.groups, -1, site.columns)
    return on_grid(weight, method.scheme, Curvature.unknown(site.groups, site.columns), most_steps(plan)) is not None


def most_steps(plan: Plan) -> int:
    """The largest integer that a weight may be."""
    return formats.most_steps(portable=plan.recipe.portable)


def _least_scale(given: Given, site: Site) -> Tensor | None:
    """Scales below this would make the int32 bias overflow, which is counted in steps of input times weight."""
    model, statistics = given.model, given.statistics
    if statistics is None or given.executions[site.name] is not Execution.STATIC:
        return None
    least = None
    for use in site.uses:
        seen = statistics.ranges.get(use.input)
        if use.bias is None or seen is None:
            continue
        step, _ = affine(formats.get("uint8"), seen.low, seen.high)
        bias = torch.from_numpy(np.abs(model.initializer(use.bias).astype(np.float64)).reshape(-1))
        here = (bias / (float(step) * _MOST_BIAS_STEPS)).float().expand(site.rows)
        least = here if least is None else least.maximum(here)
    return least
