"""A page as data, and its HTML, with all styles, scripts and data inside.

What users named is only ever text: Jinja2 escapes it in HTML, and in scripts no `<` stands as it is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import jinja2
import vl_convert
from markupsafe import Markup

_ENDS_SCRIPT: Final = re.compile(r"<(/script|!--)", re.IGNORECASE)
_TEMPLATES: Final = Path(__file__).with_name("templates")

Spec = Mapping[str, Any]
"""A chart in Vega-Lite."""


@dataclass(frozen=True)
class Chart:
    """A chart, whose description says what it shows for who does not see it, with a title and how to read it."""

    title: str
    spec: Spec
    caption: str


@dataclass(frozen=True)
class Cell:
    """What a table shows, and by what it is sorted, a number or the text itself; `status` is a verdict or nothing."""

    text: str
    key: float | None = None
    status: str = ""

    @classmethod
    def of(cls, value: float | None, form: str) -> Cell:
        """A number, written as the format string `form` says; an empty cell where there is none."""
        return cls("") if value is None else cls(form.format(value), value)


@dataclass(frozen=True)
class Table:
    """A table that sorts and filters; the first column names the rows, `numbers` are the columns set to the right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    numbers: frozenset[str]


@dataclass(frozen=True)
class Remark:
    """Something to know, with a verdict, `note` or nothing, and what it is about, if not all."""

    text: str
    status: str = ""
    about: str = ""


@dataclass(frozen=True)
class Page:
    """What a page shows, from top to bottom; `summary` has a heading row of two columns, and rows of three cells."""

    title: str
    heading: str
    status: str
    outcome: str
    versions: Mapping[str, str]
    remarks: Sequence[Remark] = ()
    summary: Sequence[tuple[str, str, str]] = ()
    charts: Sequence[Chart] = ()
    tables: Sequence[Table] = ()
    origin: Sequence[tuple[str, str]] = ()


def render(page: Page, command: str | None) -> str:
    """The HTML of a page; `command` is the command line that makes it again."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(_TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["script"] = _in_script
    inline = {name.replace(".", "_"): Markup((_TEMPLATES / name).read_text(encoding="utf-8")) for name in _INLINE}  # noqa: S704
    return environment.get_template("page.html").render(page=page, command=command, vega=_vega(), **inline)


_INLINE: Final = ("style.css", "tables.js", "charts.js")


@cache
def _vega() -> Markup:
    """Vega, Vega-Lite and what embeds them, as one script; what would end it in its strings is written otherwise."""
    bundle = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return Markup(_ENDS_SCRIPT.sub(r"<\\\1", bundle))  # noqa: S704


def _in_script(content: Any) -> Markup:
    """JSON that may stand in a script."""
    text = json.dumps(content, sort_keys=True, allow_nan=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))  # noqa: S704
