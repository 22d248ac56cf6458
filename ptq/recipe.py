"""Options, checked by themselves and against the sites of a model: every user mistake surfaces here."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

from ptq import formats
from ptq.errors import ModelError, OptionError, suggest
from ptq.methods.multipoint import Multipoint
from ptq.methods.multipoint.method import int8
from ptq.model.sites import Site
from ptq.ranges import RANGES

METHODS: Final = ("multipoint",)
BASES: Final = ("int4", "int3", "int2")
LAST: Final = "int2"
"""What the last point of a row may be, where bits or a tolerance decide and not a number of points."""
ACTIVATIONS: Final = ("uint8", "none")
PER: Final = ("channel", "layer")
ABOVE_BASE: Final = 0.4
"""Bits per weight above the base format that are spent when no option says otherwise."""


@dataclass(frozen=True)
class Recipe:
    """What to do, as the user says it; None leaves the choice to the data that is there."""

    method: str = "multipoint"
    weights: str = "int4"
    bits: float | None = None
    tolerance: float | None = None
    points: int | None = None
    per: str = "channel"
    search: str = "radix"
    rounding: str | None = None
    portable: bool = False
    activations: str | None = None
    range: str = "minmax"
    first_last: str | None = None
    keep_float: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Check each option.

        Raises:
            OptionError: one has an unknown value, is out of range, or contradicts another.

        """
        _choice("--method", self.method, METHODS)
        _choice("--weights", self.weights, BASES)
        _choice("--per", self.per, PER)
        _choice("--range", self.range, RANGES)
        _choice("--activations", self.activations, (*ACTIVATIONS, None))
        _choice("--first-last", self.first_last, ("int8", None))
        chosen = [f"--{name}" for name in ("bits", "tolerance", "points") if getattr(self, name) is not None]
        if len(chosen) > 1:
            raise OptionError(f"{' and '.join(chosen)} both say how many points there are; give one of them")
        if self.bits is not None and not 1 <= self.bits <= 32:
            raise OptionError(f"--bits {self.bits:g} is not a number of bits per weight; give for example 4.25")
        if self.tolerance is not None and not 0 < self.tolerance < 1:
            raise OptionError(f"--tolerance {self.tolerance:g} is not between 0 and 1; give for example 0.01")
        most = self.base_method(has_data=True).most_points
        if self.points is not None and not 1 <= self.points <= most:
            fix = "one at least" if self.points < 1 else f"at most {most}, or a wider base format"
            raise OptionError(f"--points {self.points} of {self.weights} is not between 1 and {most}; give {fix}")
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
        return cls(**values)

    def base_method(self, *, has_data: bool) -> Multipoint:
        """The method of an ordinary site."""
        rounding = self.rounding or ("hessian" if has_data and self.search == "radix" else "nearest")
        last = formats.get(LAST) if self.points is None else None
        return Multipoint(formats.get(self.weights), self.search, rounding, self.portable, last)

    def plan(self, sites: Sequence[Site], *, has_data: bool) -> Plan:
        """Decide for each site.

        Raises:
            OptionError: an option needs data that is not there, or a pattern names no site.
            ModelError: there is no site.

        """
        if not sites:
            raise ModelError(
                "the model has no quantizable node: no Conv, Gemm or MatMul with constant float32 weights; use another"
            )
        if not has_data:
            self._need_no_data()
        floats = self._kept(sites)
        method = self.base_method(has_data=has_data)
        ends = {sites[0].name, sites[-1].name} if self.first_last else set()
        methods: dict[str, Multipoint | None] = {}
        for site in sites:
            eight = int8(portable=self.portable, rounding=method.rounding)
            methods[site.name] = None if site.name in floats else eight if site.name in ends else method
        if not any(methods.values()):
            raise OptionError("--keep-float leaves every layer in float; give a narrower pattern")
        return Plan(methods, floats, has_data and self.activations != "none", self)

    def _need_no_data(self) -> None:
        for name, value, needed in (
            ("--rounding", self.rounding, "hessian"),
            ("--activations", self.activations, "uint8"),
        ):
            if value == needed:
                raise OptionError(f"{name} {value} needs calibration data; give --data")

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


@dataclass(frozen=True)
class Plan:
    """What was decided: the method of each site (None stays float), why, and whether activations are quantized."""

    methods: Mapping[str, Multipoint | None]
    reasons: Mapping[str, str]
    activations: bool
    recipe: Recipe

    @property
    def budget(self) -> float:
        """Average bits per weight to spend when neither tolerance nor points say how many."""
        return self.recipe.bits or formats.get(self.recipe.weights).bits + ABOVE_BASE


def _choice(option: str, value: str | None, known: Iterable[str | None]) -> None:
    if value not in known:
        names = [name for name in known if name]
        raise OptionError(f"unknown {option} {value!r}; {suggest(str(value), names)}")
