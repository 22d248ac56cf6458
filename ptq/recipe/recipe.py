"""Options, checked by themselves and against the sites of a model: every user mistake surfaces here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

from ptq import scheme
from ptq.errors import ModelError, OptionError, suggest
from ptq.formats import INT8_MAX
from ptq.lowering.target import TARGETS, Pair, Target
from ptq.method import Method, Request
from ptq.methods.rtn import Rtn
from ptq.model.sites import LOOKUPS, Site
from ptq.ranges import RANGES
from ptq.recipe.options import (
    ACTIVATIONS,
    DYNAMIC,
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
    listed,
    readers,
    why_no_activations,
)
from ptq.recipe.plan import Plan
from ptq.scheme import Scheme

_FEW_BITS = 8
_EMBEDDING_GROUP = "32"


@dataclass(frozen=True)
class Recipe:
    """What to do, as the user says it; None leaves the choice to the data that is there."""

    method: str = "multipoint"
    steps: tuple[str, ...] = ()
    weights: str = "int4"
    group: str | None = None
    bits: float | None = None
    tolerance: float | None = None
    points: int | None = None
    per: str | None = None
    search: str | None = None
    rounding: str | None = None
    among: tuple[str, ...] | None = None
    metric: str | None = None
    beta: float | None = None
    portable: bool = False
    activations: str | None = None
    target: str = "cpu"
    range: str = MINMAX
    embeddings: str = EMBEDDINGS
    first_last: str | None = None
    keep_float: tuple[str, ...] = ()

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
        more = (INT8,) if self._target.pairs else ()
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
        self._base(has_data=True)
        for pattern in self.keep_float:
            try:
                re.compile(pattern)
            except re.error as error:
                raise OptionError(f"--keep-float {pattern!r} is no regular expression: {error}; escape it") from None

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Recipe:
        """A recipe of keyword options.

        Raises:
            OptionError: there is no such option.

        """
        known = {f.name for f in fields(cls)}
        for name in options:
            if name not in known:
                raise OptionError(f"unknown option {name!r}; {suggest(name, known)}")
        values = dict(options)
        for name in ("keep_float", "steps"):
            said = values.get(name, ())
            values[name] = (said,) if isinstance(said, str) else tuple(said)
        if isinstance(values.get("among"), str):
            values["among"] = tuple(values["among"].split(","))
        if values.get("group") is not None:
            values["group"] = str(values["group"])
        return cls(**values)

    def computed(self, *, has_data: bool) -> str:
        """What activations are: as said, else what goes with the weights on the target.

        On processors that is uint8 where there is data and int8 kernels take the weights.
        """
        if self.activations is not None:
            return self.activations
        if self._target.pairs:
            return self._target.partner(self.weights) or NONE
        return UINT8 if has_data and self._fits_int8() else NONE

    def _fits_int8(self) -> bool:
        try:
            return scheme.parse(self.weights, self.group, integer=True, portable=self.portable).fits_int8
        except OptionError:
            return False

    @property
    def _target(self) -> Target:
        return TARGETS[self.target]

    def _pair(self, found: Scheme, activations: str) -> Pair | None:
        """What the target computes with; None where all that is said here goes."""
        pair = self._target.pair(found, activations)
        if pair is not None:
            tables = None if self.embeddings in (EMBEDDINGS, NONE) else self.embeddings
            idle = {"first-last": self.first_last, "portable": self.portable, "embeddings": tables}
            summing = "points" in METHODS[self.method].METHOD.OPTIONS
            self._target.check(self.method, idle, summing=summing)
        return pair

    def _base(self, *, has_data: bool) -> Method:
        """The method of an ordinary site.

        Raises:
            OptionError: the method does not do that, does not read an option, or int8 kernels do not take the weights.

        """
        activations = self.computed(has_data=has_data)
        integer = activations in INTEGER and not self._target.pairs
        found = scheme.parse(self.weights, self.group, integer=integer, portable=self.portable)
        self._pair(found, activations)
        if activations in INTEGER and not found.fits_int8:
            raise OptionError(
                f"--activations {activations} computes in int8, which takes weights of up to {INT8_MAX} steps of one "
                f"scale a row, not {found.describe()}; use --activations none, or signed integers of up to 8 bits"
            )
        made: Method = METHODS[self.method].METHOD.of(self._request(found, has_data=has_data))
        chosen = {f"--method {self.method}", *(f"--step {step}" for step in self.steps)}
        for name, reading in readers().items():
            if getattr(self, name) is not None and chosen.isdisjoint(reading):
                raise OptionError(f"--{name} is read by {listed(reading)}, not by {listed(chosen)}; leave it out")
        return made

    def _request(self, found: Scheme, *, has_data: bool) -> Request:
        return Request(found, has_data, self.portable, {name: getattr(self, name) for name in readers()})

    def _stepping(self, request: Request) -> tuple[Any, ...]:
        """The steps, in order."""
        steps = [(name, STEPS[name].STEP.of(request)) for name in self.steps]
        for name, step in steps:
            if step.needs_data and not request.has_data:
                raise OptionError(f"--step {name} needs calibration data; give --data")
        return tuple(step for _, step in steps)

    def _lookup(self) -> Method | None:
        """What quantizes embedding tables: their rows are read one by one, so that no input weighs their columns."""
        if self.embeddings == NONE:
            return None
        plain = scheme.parse(self.embeddings)
        few = plain.bits < _FEW_BITS and plain.group is None
        return Rtn(scheme.parse(self.embeddings, _EMBEDDING_GROUP) if few else plain)

    def plan(self, sites: Sequence[Site], *, has_data: bool) -> Plan:
        """Decide for each site.

        Raises:
            OptionError: an option needs data that is not there, or a pattern names no site.
            ModelError: there is no site.

        """
        if not sites:
            raise ModelError(
                "the model has no quantizable node: no Conv, Gemm, MatMul, Gather, LSTM, GRU or RNN with constant "
                "float32 weights; use another, or convert float16 weights to float32"
            )
        activations = self.computed(has_data=has_data)
        if self.range != MINMAX and activations in (NONE, DYNAMIC):
            raise OptionError(
                f"--activations {activations} has no ranges from data, so that --range does nothing; leave it out"
            )
        if self.embeddings not in (EMBEDDINGS, NONE) and not any(use.lookup for site in sites for use in site.uses):
            raise OptionError(f"--embeddings {self.embeddings}: the model has no embedding table; leave it out")
        if activations not in (NONE, DYNAMIC) and not has_data:
            raise OptionError(f"--activations {activations} needs calibration data; give --data")
        floats = self._kept(sites)
        method, lookup = self._base(has_data=has_data), self._lookup()
        pair = self._pair(method.scheme, activations)
        if pair is not None:
            reasons = ((site.name, self._target.why_float(pair, site, method.scheme.group)) for site in sites)
            floats = {name: why for name, why in reasons if why is not None} | floats
        eight = method
        if self.first_last:
            request = self._request(scheme.parse(self.first_last), has_data=has_data)
            eight = METHODS[self.method].METHOD.of(replace(request, options={"rounding": self.rounding, "points": 1}))
        computing = [site.name for site in sites if site.op not in LOOKUPS]
        ends = {computing[0], computing[-1]} if self.first_last and computing else set()
        methods: dict[str, Method | None] = {}
        for site in sites:
            if site.op in LOOKUPS and lookup is None:
                floats.setdefault(site.name, "an embedding, kept in float by --embeddings none")
            usual = lookup if site.op in LOOKUPS else eight if site.name in ends else method
            methods[site.name] = None if site.name in floats else usual
        if not any(methods.values()):
            if pair is None:
                raise OptionError("--keep-float leaves every layer in float; give a narrower pattern")
            why = next(iter(floats.values()))
            raise OptionError(f"every layer stays in float, the first as {why}; give other --weights or --keep-float")
        steps = self._stepping(self._request(method.scheme, has_data=has_data))
        return Plan(methods, floats, activations, self, pair, steps)

    def _kept(self, sites: Iterable[Site]) -> dict[str, str]:
        kept: dict[str, str] = {}
        names = [site.name for site in sites]
        for pattern in self.keep_float:
            matched = [name for name in names if re.search(pattern, name)]
            if not matched:
                shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
                raise OptionError(f"--keep-float {pattern!r} matches no layer; the layers are {shown}")
            kept |= dict.fromkeys(matched, f"kept in float by --keep-float {pattern}")
        return kept
