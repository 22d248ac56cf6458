"""Options, checked by themselves and against the sites of a model: every user mistake surfaces here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Final

from ptq import formats, registry, scheme
from ptq.errors import ModelError, OptionError, suggest
from ptq.formats import INT8_MAX
from ptq.formats.minifloat import FloatFormat
from ptq.lowering.target import TARGETS, Pair, Target
from ptq.method import Method, Request
from ptq.methods.rtn import Rtn
from ptq.model.sites import LOOKUPS, Site
from ptq.ranges import RANGES
from ptq.scheme import Scheme

METHODS: Final = registry.Modules("ptq.methods")
UINT8, DYNAMIC, NONE = "uint8", "dynamic", "none"
INTEGER: Final = (UINT8, DYNAMIC)
"""Activations that int8 kernels compute with: with ranges from calibration, and with those of every input."""

SIMULATED: Final = tuple(
    fmt.name for fmt in formats.FORMATS.values() if isinstance(fmt, FloatFormat) and fmt.onnx and fmt.bits == 8
)
"""Activations that are rounded to a format and computed with in float: what a runtime that has it would give."""

ACTIVATIONS: Final = (*INTEGER, *SIMULATED, NONE)
INT8: Final = "int8"
"""Activations that only some targets take."""

MINMAX: Final = "minmax"
PER: Final = ("channel", "layer")
ABOVE_BASE: Final = 0.4
"""Bits per weight above the base format that are spent when no option says otherwise."""

EMBEDDINGS: Final = "int8"
"""The format of embedding tables when no option says otherwise: a row of it is as good as one of float32."""

_FEW_BITS = 8
_EMBEDDING_GROUP = "32"


@dataclass(frozen=True)
class Recipe:
    """What to do, as the user says it; None leaves the choice to the data that is there."""

    method: str = "multipoint"
    weights: str = "int4"
    group: str | None = None
    bits: float | None = None
    tolerance: float | None = None
    points: int | None = None
    per: str | None = None
    search: str | None = None
    rounding: str | None = None
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
        _choice("--method", self.method, METHODS)
        _choice("--group", self.group, (*scheme.SHARED, None))
        _choice("--per", self.per, (*PER, None))
        _choice("--range", self.range, RANGES)
        _choice("--target", self.target, TARGETS)
        more = (INT8,) if self._target.pairs else ()
        _choice("--activations", self.activations, (*ACTIVATIONS, *more, None), _why_not)
        _choice("--embeddings", self.embeddings, (*scheme.known(), NONE))
        _choice("--first-last", self.first_last, ("int8", None))
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
        keep = values.get("keep_float", ())
        values["keep_float"] = (keep,) if isinstance(keep, str) else tuple(keep)
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
            summing = not METHODS[self.method].METHOD.OPTIONS.isdisjoint({"bits", "points"})
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
        for name in sorted(_METHOD_OPTIONS - made.OPTIONS):
            if getattr(self, name) is not None:
                readers = [method for method in METHODS if name in METHODS[method].METHOD.OPTIONS]
                raise OptionError(f"--method {self.method} has no --{name}, {' and '.join(readers)} has; leave it out")
        return made

    def _request(self, found: Scheme, *, has_data: bool) -> Request:
        options = {name: getattr(self, name) for name in _METHOD_OPTIONS}
        return Request(found, has_data, self.portable, options)

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
        return Plan(methods, floats, activations, self, pair)

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


_METHOD_OPTIONS: Final = frozenset({"bits", "tolerance", "points", "per", "search", "rounding"})
"""The options that only some methods read."""


@dataclass(frozen=True)
class Plan:
    """What was decided: the method of each site (None stays float), why, and what activations are."""

    methods: Mapping[str, Method | None]
    reasons: Mapping[str, str]
    activations: str
    recipe: Recipe
    pair: Pair | None = None
    """What a target computes with that takes only some pairs."""

    @property
    def measures(self) -> bool:
        """Whether bits go to the sites that matter most to the output, which takes samples that nothing else saw."""
        bits = "bits" in METHODS[self.recipe.method].METHOD.OPTIONS
        return bits and self.recipe.points is None and self.recipe.tolerance is None

    @property
    def budget(self) -> float:
        """Average bits per weight to spend when neither tolerance nor points say how many."""
        return self.recipe.bits or scheme.parse(self.recipe.weights).bits + ABOVE_BASE


def _choice(option: str, value: str | None, known: Iterable[str | None], why: Callable[[str], str] = str) -> None:
    if value in known:
        return
    names = [name for name in known if name]
    said = why(str(value))
    raise OptionError(said if said != value else f"unknown {option} {value!r}; {suggest(str(value), names)}")


def _why_not(activations: str) -> str:
    """Why a format is none for activations; the name itself where it is no format."""
    if activations not in scheme.known():
        return activations
    if activations == "int8":
        return (
            "--activations int8: ONNX Runtime's int8 kernels for CPUs fuse uint8 activations reliably, int8 not; "
            "use uint8, or --target cuda or tensorrt"
        )
    shown = ", ".join(ACTIVATIONS)
    return f"--activations {activations}: no kernel of ONNX Runtime takes them, nor do ONNX's casts; use {shown}"
