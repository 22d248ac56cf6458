"""Options, checked by themselves and against the sites of a model: every user mistake surfaces here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from types import MappingProxyType
from typing import Any

from ptq import scheme
from ptq.errors import OptionError, suggest
from ptq.formats import INT8_MAX
from ptq.lowering.target import TARGETS, Pair, Target
from ptq.method import Method, Request
from ptq.model.sites import LOOKUPS, Site
from ptq.ranges import RANGES
from ptq.recipe.options import (
    ACTIVATIONS,
    EMBEDDINGS,
    INT8,
    INTEGER,
    METHODS,
    MINMAX,
    NONE,
    PER,
    STEPS,
    UINT8,
    choice,
    readers,
    typed,
    unread,
    why_no_activations,
)
from ptq.recipe.plan import Plan, resolve
from ptq.recipe.rules import Rule
from ptq.recipe.tables import rounded
from ptq.scheme import Scheme

_ONE_SIZE: Mapping[str, Any] = MappingProxyType(
    {"points": 1, "search": "radix", "worth": None, "beta": None, "max_latency": None}
)
"""What multipoint and mixed are where the format alone is enough."""


@dataclass(frozen=True)
class Recipe:
    """What to do, as the user says it; None leaves the choice to the data that is there."""

    method: str = "multipoint"
    steps: tuple[str, ...] = ()
    alpha: float | None = None
    weights: str = "int4"
    group: str | None = None
    bits: float | None = None
    tolerance: float | None = None
    points: int | None = None
    per: str | None = None
    search: str | None = None
    rounding: str | None = None
    among: tuple[str, ...] | None = None
    worth: str | None = None
    beta: float | None = None
    max_latency: float | None = None
    portable: bool = False
    sequential: bool = False
    activations: str | None = None
    target: str = "cpu"
    range: str = MINMAX
    embeddings: str = EMBEDDINGS
    first_last: str | None = None
    keep_float: tuple[str, ...] = ()
    layers: tuple[Rule, ...] = ()
    """What is different in some layers; the last rule that matches one decides for it."""

    def __post_init__(self) -> None:
        """Check each option.

        Raises:
            OptionError: one has an unknown value, is out of range, or contradicts another.

        """
        choice("--method", self.method, METHODS)
        for step in self.steps:
            choice("--step", step, STEPS)
        if len(set(self.steps)) < len(self.steps):
            raise OptionError(f"--step {' --step '.join(self.steps)} names one twice; a step is done once")
        choice("--group", self.group, (*scheme.SHARED, None))
        choice("--per", self.per, (*PER, None))
        choice("--range", self.range, RANGES)
        choice("--target", self.target, TARGETS)
        more = (INT8,) if self.runtime.pairs else ()
        choice("--activations", self.activations, (*ACTIVATIONS, *more, None), why_no_activations)
        choice("--embeddings", self.embeddings, (*scheme.known(), NONE))
        choice("--first-last", self.first_last, ("int8", None))
        chosen = [f"--{name}" for name in ("bits", "tolerance", "points") if getattr(self, name) is not None]
        if len(chosen) > 1:
            raise OptionError(f"{' and '.join(chosen)} both say how many points there are; give one of them")
        if self.bits is not None and not 1 <= self.bits <= 32:
            raise OptionError(f"--bits {self.bits:g} is not a number of bits per weight; give for example 4.25")
        if self.tolerance is not None and not 0 < self.tolerance < 1:
            raise OptionError(f"--tolerance {self.tolerance:g} is not between 0 and 1; give for example 0.01")
        self.base(has_data=True)
        for rule in (*self.rules, *self.floats):
            if rule.op in LOOKUPS:
                self.table(rule)
            elif not rule.keep_float:
                self.at(rule, has_data=True)

    @classmethod
    def of(cls, options: Mapping[str, Any], place: str = "") -> Recipe:
        """A recipe of options as they are written in Python, JSON or TOML; `place` is what messages begin with.

        Raises:
            OptionError: there is no such option, or its value is of another type.

        """
        values = dict(options)
        layers = cls._layers(values.pop("layers", ()), place)
        try:
            return cls(**cls._typed(values), layers=layers)
        except OptionError as error:  # a rule says by itself where it is
            raise OptionError(f"{'' if str(error).startswith(place) else place}{error}") from None

    def but(self, options: Mapping[str, Any]) -> Recipe:
        """The recipe with some options said differently.

        Raises:
            OptionError: there is no such option, its value is of another type, or it does not go with the others.

        """
        return replace(self, **self._typed(options))

    @classmethod
    def _typed(cls, options: Mapping[str, Any]) -> dict[str, Any]:
        known = {f.name: str(f.type) for f in fields(cls) if f.name != "layers"}
        for name in options:
            if name not in known:
                raise OptionError(f"unknown option {name!r}; {suggest(name, (*known, 'layers'))}")
        return {name: typed(name, value, known[name]) for name, value in options.items()}

    @staticmethod
    def _layers(said: Any, place: str) -> tuple[Rule, ...]:
        listed = isinstance(said, Sequence) and all(isinstance(each, (Rule, Mapping)) for each in said)
        if not listed:
            raise OptionError(f"{place}layers is a list of tables, one a rule; write [[layers]] over each")
        return tuple(
            each if isinstance(each, Rule) else Rule.of(each, f"{place}rule {number}")
            for number, each in enumerate(said, 1)
        )

    def as_options(self) -> dict[str, Any]:
        """What `of` makes the same recipe of, in types that JSON has."""
        plain = {f.name: getattr(self, f.name) for f in fields(self)}
        listed = {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}
        return {**listed, "layers": [rule.as_options() for rule in self.layers]}

    @property
    def kind(self) -> str:
        """What files are called by: the format of the weights, or the method where it gives each layer its own."""
        return self.method if "among" in METHODS[self.method].METHOD.OPTIONS else self.weights

    @property
    def title(self) -> str:
        """The recipe in a few words."""
        return self.method if self.kind == self.method else f"{self.method} {self.weights}"

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Where layers differ: at the ends, then as `layers` says."""
        if self.first_last is None:
            return self.layers
        reads = METHODS[self.method].METHOD.OPTIONS
        one = {name: value for name, value in {**_ONE_SIZE, "among": self.first_last}.items() if name in reads}
        options = {"weights": self.first_last, "group": scheme.ROW, **one}
        ends = Rule(first=True, last=True, options=options, said=f"--first-last {self.first_last}")
        return (ends, *self.layers)

    @property
    def floats(self) -> tuple[Rule, ...]:
        """Which layers stay in float whatever the other rules say."""
        return tuple(
            Rule(match=pattern, keep_float=True, said=f"--keep-float {pattern!r}") for pattern in self.keep_float
        )

    def at(self, rule: Rule, *, has_data: bool) -> Recipe:
        """The options where a rule decides: its own, and those of all that its method reads.

        Raises:
            OptionError: they do not go together.

        """
        try:
            said = self._typed({"activations": self.computed(has_data=has_data), **rule.options})
            method = said.get("method", self.method)
            choice("--method", method, METHODS)
            left = {name for name in readers() if name not in METHODS[method].METHOD.OPTIONS}
            left |= {"bits", "tolerance"} if "points" in said else set()
            left |= {"group"} if scheme.has_own_groups(said.get("weights", self.weights)) else set()
            whole: dict[str, Any] = {"first_last": None, "keep_float": (), "layers": (), "steps": ()}
            return replace(self, **{**dict.fromkeys(left), **whole, **said})
        except OptionError as error:
            raise OptionError(f"{rule.said}: {error}") from None

    def computed(self, *, has_data: bool) -> str:
        """What activations are: as said, else what goes with the weights on the target.

        On processors that is uint8 where there is data and int8 kernels take the weights.
        """
        if self.activations is not None:
            return self.activations
        if self.runtime.pairs:
            return self.runtime.partner(self.weights) or NONE
        return UINT8 if has_data and self._fits_int8() else NONE

    def _fits_int8(self) -> bool:
        try:
            return scheme.parse(self.weights, self.group, integer=True, portable=self.portable).fits_int8
        except OptionError:
            return False

    @property
    def runtime(self) -> Target:
        """What runs the file."""
        return TARGETS[self.target]

    def pair(self, found: Scheme, activations: str) -> Pair | None:
        """What the target computes with; None where all that is said here goes."""
        pair = self.runtime.pair(found, activations)
        if pair is not None:
            tables = None if self.embeddings in (EMBEDDINGS, NONE) else self.embeddings
            idle = {"first-last": self.first_last, "portable": self.portable, "embeddings": tables}
            mixing = "bits" in METHODS[self.method].METHOD.OPTIONS
            self.runtime.check(self.method, idle, mixing=mixing)
        return pair

    def base(self, *, has_data: bool) -> Method:
        """The method of an ordinary site.

        Raises:
            OptionError: the method does not do that, does not read an option, or int8 kernels do not take the weights.

        """
        activations = self.computed(has_data=has_data)
        integer = activations in INTEGER and not self.runtime.pairs
        found = scheme.parse(self.weights, self.group, integer=integer, portable=self.portable)
        self.pair(found, activations)
        if activations in INTEGER and not found.fits_int8:
            raise OptionError(
                f"--activations {activations} computes in int8, which takes weights of up to {INT8_MAX} steps of one "
                f"scale a row, not {found.describe()}; use --activations none, or signed integers of up to 8 bits"
            )
        made: Method = METHODS[self.method].METHOD.of(self._request(found, has_data=has_data))
        _ = self.made_steps
        methods = (self.method, *(rule.options.get("method", self.method) for rule in self.layers))
        chosen = {*(f"--method {name}" for name in methods), *(f"--step {step}" for step in self.steps)}
        for name, reading in readers().items():
            if getattr(self, name) is not None and chosen.isdisjoint(reading):
                raise OptionError(unread(name, reading, chosen))
        return made

    def _request(self, found: Scheme, *, has_data: bool) -> Request:
        return Request(found, has_data, self.portable, {name: getattr(self, name) for name in readers()})

    @property
    def made_steps(self) -> tuple[tuple[str, Any], ...]:
        """The steps by name, in their order, each of its options.

        Raises:
            OptionError: an option of a step is out of range.

        """
        made = [(name, STEPS[name].STEP) for name in self.steps]
        return tuple((name, step.of({key: getattr(self, key) for key in step.OPTIONS})) for name, step in made)

    def table(self, rule: Rule | None) -> Method | None:
        """What quantizes embedding tables, by a rule or without one; None leaves them in float.

        Raises:
            OptionError: a rule says of them what no format is.

        """
        try:
            said = {} if rule is None else self._typed(rule.options)
            weights = said.get("weights", self.embeddings)
            left = "weights" not in said and weights == NONE
            return None if left else rounded(weights, said.get("group"))
        except OptionError as error:
            raise OptionError(f"{'' if rule is None else f'{rule.said}: '}{error}") from None

    def plan(self, sites: Sequence[Site], *, has_data: bool) -> Plan:
        """Decide for each site.

        Raises:
            OptionError: an option needs data that is not there, or a rule names no site.
            ModelError: there is no site.

        """
        return resolve(self, sites, has_data=has_data)
