"""What a recipe means for each site of a model."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ptq.errors import ModelError, OptionError
from ptq.lowering.target import Pair
from ptq.method import Method
from ptq.model.sites import LOOKUPS, Site
from ptq.recipe.options import ABOVE_BASE, DYNAMIC, EMBEDDINGS, INTEGER, MINMAX, NONE
from ptq.recipe.rules import Rule, deciding
from ptq.recipe.tables import TABLES
from ptq.scheme import UNEVEN

INT8_BITS = 8
"""Of the widest weights that int8 kernels take."""

if TYPE_CHECKING:
    from ptq.recipe.recipe import Recipe


@dataclass(frozen=True)
class Decision:
    """What was decided for a site, and by what: the rule as it is called, or None for the options of all."""

    method: Method | None
    """None stays float."""
    said: Recipe
    """The options that hold there."""
    activations: str
    pair: Pair | None = None
    """What a target computes with that takes only some pairs."""
    rule: str | None = None
    reason: str | None = None
    """Why it stays float."""
    named: str | None = None
    """The method as it is called."""

    @property
    def budgeted(self) -> bool:
        """Whether it has as many bits as pay, out of those for all layers."""
        return self.method is not None and "bits" in self.method.OPTIONS and self.said.points is None

    @property
    def points(self) -> int:
        """How many terms each row has, where that is said; else one."""
        fixed = self.method is not None and "points" in self.method.OPTIONS
        return (self.said.points or 1) if fixed else 1


@dataclass(frozen=True)
class Plan:
    """What was decided for every site, what activations are, and the steps by name, in order.

    `activations` are those of all sites whose rules say nothing else, or the one number format among them.
    """

    sites: Mapping[str, Decision]
    activations: str
    recipe: Recipe
    steps: tuple[tuple[str, Any], ...] = ()
    base_bits: float = 0.0
    """Bits per weight of the formats of sites that have a budget, on average."""

    @cached_property
    def methods(self) -> Mapping[str, Method | None]:
        """The method of each site; None stays float."""
        return {name: decided.method for name, decided in self.sites.items()}

    @cached_property
    def reasons(self) -> Mapping[str, str]:
        """Why sites stay float."""
        return {name: decided.reason for name, decided in self.sites.items() if decided.reason is not None}

    @property
    def measures(self) -> bool:
        """Whether bits go to the sites that matter most to the output, which takes samples that nothing else saw."""
        return self.recipe.tolerance is None and any(decided.budgeted for decided in self.sites.values())

    @property
    def budget(self) -> float | None:
        """Average bits per weight to spend when neither tolerance nor points say how many; None where only time is."""
        if self.recipe.bits is None and self.recipe.max_latency is not None:
            return None
        return self.recipe.bits or self.base_bits + ABOVE_BASE

    def limit(self, site: str) -> float:
        """The largest magnitude of weights in even steps that are as fine as the numbers of a site are on average."""
        decided = self.sites[site]
        if decided.method is None:
            return math.inf
        scheme = decided.method.scheme
        bits: float = scheme.format.bits * decided.points
        if decided.budgeted:
            bits = INT8_BITS if self.budget is None else self.budget
        even: float = 2.0 ** (min(bits, INT8_BITS) - 1) - 1
        return even if isinstance(scheme.format, UNEVEN) else max(scheme.limit, even)

    def without(self, names: Collection[str], reason: str) -> Plan:
        """The same where these sites stay in float after all."""
        kept = {name: replace(self.sites[name], method=None, named=None, reason=reason) for name in names}
        return replace(self, sites={**self.sites, **kept})


def resolve(recipe: Recipe, sites: Sequence[Site], *, has_data: bool) -> Plan:
    """Decide for each site.

    Raises:
        OptionError: an option needs data that is not there, or a rule names no site.
        ModelError: there is no site.

    """
    if not sites:
        raise ModelError(
            "the model has no quantizable node: no Conv, Gemm, MatMul, Gather, LSTM, GRU or RNN with constant "
            "float weights; use another"
        )
    if recipe.embeddings not in (EMBEDDINGS, NONE) and not any(use.lookup for site in sites for use in site.uses):
        raise OptionError(f"--embeddings {recipe.embeddings}: the model has no embedding table; leave it out")
    for name, step in recipe.made_steps:
        if step.needs_data and not has_data:
            raise OptionError(f"--step {name} needs calibration data; give --data")
    rules = deciding(recipe.rules, recipe.floats, sites)
    usual = _Ordinary.of(recipe, None, has_data=has_data)
    known: dict[int, _Ordinary] = {}
    decided = {}
    for site in sites:
        rule = rules.get(site.name)
        if rule is None or rule.keep_float or site.op in LOOKUPS:
            here = usual
        else:
            here = known.get(id(rule)) or _Ordinary.of(recipe, rule, has_data=has_data)
            known[id(rule)] = here
        decided[site.name] = here.decision(site, rule)
    _check_floats(recipe, decided)
    activations = _activations(recipe, usual, decided)
    budgeted = {
        site.name: made for site in sites if (made := decided[site.name].method) and decided[site.name].budgeted
    }
    _check_budget(recipe, budgeted.values())
    if recipe.sequential:
        _check_sequential(recipe, decided, has_data=has_data)
    counts = {site.name: math.prod(site.shape) for site in sites if site.name in budgeted}
    base = sum(made.scheme.bits * counts[name] for name, made in budgeted.items())
    return Plan(decided, activations, recipe, recipe.made_steps, base / max(sum(counts.values()), 1))


@dataclass(frozen=True)
class _Ordinary:
    """What holds for layers that compute, by a rule or by the options of all."""

    said: Recipe
    method: Method
    activations: str
    pair: Pair | None
    has_data: bool

    @classmethod
    def of(cls, recipe: Recipe, rule: Rule | None, *, has_data: bool) -> _Ordinary:
        said = recipe if rule is None else recipe.at(rule, has_data=has_data)
        place = "" if rule is None else f"{rule.said}: "
        try:
            method = said.base(has_data=has_data)
        except OptionError as error:
            raise OptionError(f"{place}{error}") from None
        activations = said.computed(has_data=has_data)
        if activations not in (NONE, DYNAMIC) and not has_data:
            raise OptionError(f"{place}--activations {activations} needs calibration data; give --data")
        return cls(said, method, activations, said.pair(method.scheme, activations), has_data)

    def decision(self, site: Site, rule: Rule | None) -> Decision:
        """What it comes to for a site."""
        method: Method | None = self.method
        if site.op in LOOKUPS:
            method = self.said.table(None if rule is None or rule.keep_float else rule)
        reason = None
        if rule is not None and rule.keep_float:
            reason = f"kept in float by {rule.said}"
        elif self.pair is not None:
            reason = self.said.runtime.why_float(self.pair, site, self.method.scheme.group)
        if reason is None and method is None:
            reason = "an embedding, kept in float by --embeddings none"
        made = None if reason is not None else method
        named = None if made is None else TABLES if site.op in LOOKUPS else self.said.method
        said = None if rule is None else rule.said
        return Decision(made, self.said, self.activations, self.pair, said, reason, named)


def _check_floats(recipe: Recipe, decided: Mapping[str, Decision]) -> None:
    if any(made.method is not None for made in decided.values()):
        return
    if not recipe.runtime.pairs and not recipe.layers:
        raise OptionError("--keep-float leaves every layer in float; give a narrower pattern")
    why = next(made.reason for made in decided.values())
    raise OptionError(f"every layer stays in float, the first as {why}; give other --weights or --keep-float")


def _check_budget(recipe: Recipe, budgeted: Collection[Method]) -> None:
    """Refuse bits below those of the narrowest numbers; what scales take beside them is known when they are solved."""
    if recipe.bits is None or not budgeted:
        return
    least = min((made.choices[0] for made in budgeted), key=lambda scheme: scheme.bits)
    if recipe.bits < least.bits:
        raise OptionError(
            f"--bits {recipe.bits:g} is below the {least.bits:g} bits of {least.describe()}, the narrowest that a "
            f"layer may have; give more, as scales come on top, or narrower formats"
        )


def _check_sequential(recipe: Recipe, decided: Mapping[str, Decision], *, has_data: bool) -> None:
    """Refuse to round layers one after the other where that changes nothing, or where they wait for the last."""
    if not has_data:
        raise OptionError("--sequential needs calibration data; give --data")
    if recipe.tolerance is None and (waiting := next((s for s, each in decided.items() if each.budgeted), None)):
        raise OptionError(
            f"--sequential rounds a layer before the next has seen data, and how many bits {waiting!r} gets depends on "
            f"all layers; give --points or --tolerance, or a method of one size such as gptq"
        )
    if not any(each.method is not None and "moment" in each.method.needs for each in decided.values()):
        raise OptionError("--sequential: no layer is rounded by what it is given; leave it out, or give --method gptq")


def _activations(recipe: Recipe, usual: _Ordinary, decided: Mapping[str, Decision]) -> str:
    """What activations are, as far as layers do not differ: the one number format that is not each layer's own."""
    kinds = {made.activations: made for made in decided.values() if made.method is not None}
    static = [kind for kind in kinds if kind not in (NONE, DYNAMIC)]
    if len(static) > 1 or (DYNAMIC in kinds and set(static) - set(INTEGER)):
        one, other = sorted(kinds, key=lambda kind: kinds[kind].rule is None)[:2]
        raise OptionError(
            f"{kinds[one].rule or 'the recipe'}: activations {one}, where other layers have {other}; uint8 and dynamic "
            f"go together, and none with all"
        )
    if recipe.range != MINMAX and not static:
        raise OptionError(
            f"--activations {usual.activations} has no ranges from data, so that --range does nothing; leave it out"
        )
    return static[0] if static else usual.activations
