"""Rules for single layers: which they match, and what is different there."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

from ptq.errors import OptionError, suggest
from ptq.model.sites import CONV, LOOKUPS, PRODUCTS, RECURRENT, Site
from ptq.recipe.options import readers, typed

OPS: Final = (CONV, *PRODUCTS, *LOOKUPS, *RECURRENT)
"""The operators of layers."""

WHOLE: Final = frozenset({"bits", "tolerance", "per", "max_latency"})
"""Options of methods that are about all layers together."""

TABLE: Final = frozenset({"weights", "group"})
"""What may be said of an embedding table: its rows are read one by one, so that there is nothing else to choose."""


def known_options() -> tuple[str, ...]:
    """The options of a recipe that a rule may have."""
    own = (name for name, reading in readers().items() if any(each.startswith("--method") for each in reading))
    return ("method", "weights", "group", "activations", *(name for name in own if name not in WHOLE))


@dataclass(frozen=True)
class Rule:
    """Layers that all of `match` (a regular expression found in the name), `op` and the ends hold for.

    `first` and `last` are the ends of what computes, tables left out; both together are either of them.
    """

    match: str | None = None
    op: str | None = None
    first: bool = False
    last: bool = False
    keep_float: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    said: str = field(default="a rule", compare=False)
    """What a message calls it."""

    def __post_init__(self) -> None:
        """Check what it matches.

        Raises:
            OptionError: it names no layers, or by no regular expression or operator.

        """
        if self.match is None and self.op is None and not (self.first or self.last):
            raise OptionError(f"{self.said} says of no layer; give match, op, first or last")
        try:
            re.compile(self.match or "")
        except re.error as error:
            raise OptionError(f"{self.said} is no regular expression: {error}; escape it") from None
        if self.op is not None and self.op not in OPS:
            raise OptionError(f"{self.said}: unknown op {self.op!r}; {suggest(self.op, OPS)}")
        if self.keep_float and self.options:
            given = " and ".join(sorted(self.options))
            raise OptionError(f"{self.said}: keep_float leaves nothing for {given} to say; leave out one of them")
        if not self.keep_float and not self.options:
            raise OptionError(f"{self.said} changes nothing; give keep_float = true or an option of its layers")

    @classmethod
    def of(cls, said: Mapping[str, Any], place: str) -> Rule:
        """A rule as it stands in a file; `place` is where.

        Raises:
            OptionError: a name or a value is wrong.

        """
        own = {f.name: f.type for f in fields(cls) if f.name not in ("options", "said")}
        shown = " and ".join(f"{key} '{said[key]}'" for key in ("match", "op") if isinstance(said.get(key), str))
        ends = " and ".join(key for key in ("first", "last") if said.get(key) is True)
        name = f"{place} ({', '.join(filter(None, (shown, ends)))})" if shown or ends else place
        options = known_options()
        values: dict[str, Any] = {"options": {}, "said": name}
        for key, value in said.items():
            if key in own:
                values[key] = typed(f"{name}: {key}", value, str(own[key]))
            elif key in options:
                values["options"][key] = value
            else:
                why = "is for all layers together" if key in readers() else "is nothing that a rule has"
                raise OptionError(f"{name}: {key} {why}; {suggest(key, (*own, *options))}")
        return cls(**values)

    def as_options(self) -> dict[str, Any]:
        """The rule as it would stand in a file."""
        own = {key: value for key, value in asdict(self).items() if key not in ("options", "said")}
        return {key: value for key, value in {**own, **self.options}.items() if value not in (None, False)}

    def matched(self, sites: Sequence[Site]) -> list[str]:
        """The names of the sites that it matches.

        Raises:
            OptionError: it matches none.

        """
        computing = [site.name for site in sites if site.op not in LOOKUPS]
        ends = {*(computing[:1] if self.first else ()), *(computing[-1:] if self.last else ())}
        found = [
            site.name
            for site in sites
            if (self.match is None or re.search(self.match, site.name))
            and self.op in (None, site.op)
            and (site.name in ends or not (self.first or self.last))
        ]
        if not found:
            names = [site.name for site in sites]
            shown = ", ".join(names[:8]) + (", …" if len(names) > 8 else "")
            raise OptionError(f"{self.said} matches no layer; the layers are {shown}")
        return found


def deciding(rules: Sequence[Rule], last: Sequence[Rule], sites: Sequence[Site]) -> dict[str, Rule]:
    """The rule of each site that has one, by name: the last that matches. Those in `last` come after all others.

    Raises:
        OptionError: a rule matches nothing, is hidden by others, or says of tables what they do not have.

    """
    matched = [rule.matched(sites) for rule in (*rules, *last)]
    found: dict[str, int] = {}
    for number, names in enumerate(matched[: len(rules)]):
        found |= dict.fromkeys(names, number)
    for number, rule in enumerate(rules):
        if number not in found.values():
            after = dict.fromkeys(rules[found[name]].said for name in matched[number])
            raise OptionError(
                f"{rule.said} decides nothing: {_listed(after)} matches the same layers, and the last rule that "
                f"matches decides; leave one out, or put the narrower one last"
            )
    tables = {site.name for site in sites if site.op in LOOKUPS}
    for rule, names in zip(rules, matched, strict=False):
        idle = sorted(set(rule.options) - TABLE) if tables.issuperset(names) else []
        if idle:
            raise OptionError(f"{rule.said}: {idle[0]} does nothing for embedding tables; leave it out")
    chosen = {name: rules[number] for name, number in found.items()}
    for rule, names in zip(last, matched[len(rules) :], strict=True):
        chosen |= dict.fromkeys(names, rule)
    return chosen


def _listed(names: Iterable[str]) -> str:
    return " or ".join(names)
