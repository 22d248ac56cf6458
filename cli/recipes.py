"""`ptq recipes` and `ptq recipes show`."""

from __future__ import annotations

import json
from typing import Any

import click

from cli.help import Group
from cli.reports import JSON, format_option


@click.group(cls=Group, invoke_without_command=True)
@format_option
@click.pass_context
def recipes(context: click.Context, *, form: str) -> None:
    """List the recipes that `ptq quantize --recipe` knows by name.

    ptq recipes show int4-gptq
    """
    if context.invoked_subcommand is not None:
        context.obj = form  # `ptq recipes --format json show NAME` means what it says
        return
    from ptq import presets

    found = [_entry(name) for name in presets.NAMES]
    if form == JSON:
        _echo_json({"recipes": found})
        return
    width = max(len(name) for name in presets.NAMES)
    for entry in found:
        click.echo(f"{entry['name']:<{width}}  {entry['description']}")


@recipes.command()
@click.argument("name")
@format_option
@click.pass_obj
def show(outer: str, name: str, *, form: str) -> None:
    """Print the recipe NAME as the file that it is, to begin one of your own with.

    ptq recipes show int4-gptq > mine.toml
    """
    from ptq import presets

    if JSON in {form, outer}:
        _echo_json(_entry(name))
        return
    click.echo(presets.text(name), nl=False)


def _entry(name: str) -> dict[str, Any]:
    from ptq import presets

    said = presets.options(name)
    return {"name": name, "description": said.pop("description"), "options": said}


def _echo_json(content: dict[str, Any]) -> None:
    click.echo(json.dumps(content, indent=2, allow_nan=False))
