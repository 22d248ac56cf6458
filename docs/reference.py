"""Write the reference pages that follow from the code: commands with all options, methods, steps and formats.

python docs/reference.py
"""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import click

from cli.formats import entries
from cli.main import commands
from ptq.evaluate import METRICS
from ptq.recipe import METHODS, STEPS

PAGES: Final = Path(__file__).with_name("pages") / "reference"
NOTE: Final = "<!-- written by `make docs`; do not edit -->"


def pages() -> Mapping[str, str]:
    """Every page by the name of its file."""
    return {
        "commands.md": "\n".join([NOTE, "", "# Commands", "", *_commands(commands, "ptq")]),
        "methods.md": "\n".join([NOTE, "", *_methods()]),
        "formats.md": "\n".join([NOTE, "", *_formats()]),
    }


def _commands(command: click.Command, name: str) -> Iterator[str]:
    """A command, then those in it."""
    yield from (f"## {name}", "", *_help(command), "")
    options = [each for each in command.params if isinstance(each, click.Option)]
    if options:
        yield from _table(("option", "meaning"), map(_option, options))
        yield ""
    if isinstance(command, click.Group):
        for inner, found in command.commands.items():
            yield from _commands(found, f"{name} {inner}")


def _help(command: click.Command) -> Iterator[str]:
    """What a command says of itself; the example in it is code."""
    for part in inspect.cleandoc(command.help or "").split("\n\n"):
        yield f"    {' '.join(part.split())}" if part.startswith("ptq ") else " ".join(part.split())
        yield ""


def _option(option: click.Option) -> tuple[str, str]:
    context = click.Context(click.Command("x"))
    said = option.get_help_record(context)
    names, meaning = said if said is not None else (", ".join(option.opts), "")
    return f"`{names}`", _escaped(meaning)


def _methods() -> Iterator[str]:
    yield from ("# Methods and steps", "", "## Methods", "")
    for name in METHODS:
        yield from _entry(f"--method {name}", METHODS[name], METHODS[name].METHOD)
    yield from ("## Steps", "", "Done before or after any method, with `--step`.", "")
    for name in STEPS:
        yield from _entry(f"--step {name}", STEPS[name], STEPS[name].STEP)
    yield from ("## Scores", "", "What labels are scored by, with `--metric`.", "")
    rows = (
        (f"`{each.name}`", ", ".join(sorted(kind.value for kind in each.kinds)), "yes" if each.decides else "")
        for each in METRICS.values()
    )
    yield from _table(("score", "labels", "warned of unasked"), rows)


def _entry(title: str, module: Any, found: Any) -> Iterator[str]:
    options = ", ".join(f"`--{name.replace('_', '-')}`" for name in sorted(found.OPTIONS)) or "none of its own"
    yield from (f"### `{title}`", "", *inspect.cleandoc(module.__doc__).split("\n"), "", f"Options: {options}.", "")


def _formats() -> Iterator[str]:
    yield from ("# Number formats", "", "`ptq formats show NAME` has every number of one, with its code.", "")
    sections = {
        **entries.families(),
        entries.VECTOR_KIND: entries.vectors(),
        entries.FITTED_KIND: entries.fitted(),
        entries.BLOCK_KIND: entries.blocks(),
    }
    for kind, found in sections.items():
        yield from (f"## {kind}", "")
        yield from _table(
            tuple(found[0].cells), ((f"`{first}`", *rest) for first, *rest in (e.cells.values() for e in found))
        )
        yield ""


def _table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(titles)} |"
    yield f"|{'---|' * len(titles)}"
    yield from (f"| {' | '.join(map(_escaped, row))} |" for row in rows)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|") if "\\|" not in text else text


if __name__ == "__main__":
    for file, text in pages().items():
        (PAGES / file).write_text(text.rstrip() + "\n", encoding="utf-8")
