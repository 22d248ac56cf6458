"""`ptq recipes` and `ptq recipes show`."""

from __future__ import annotations

import json
from typing import Any

import click

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for a program to read.")


@click.group(invoke_without_command=True)
@_JSON
@click.pass_context
def recipes(context: click.Context, *, as_json: bool) -> None:
    """List the recipes that `ptq quantize --recipe` knows by name."""
    if context.invoked_subcommand is not None:
        context.obj = as_json  # `ptq recipes --json show NAME` means what it says
        return
    from ptq import presets

    found = [_entry(name) for name in presets.NAMES]
    if as_json:
        _echo_json({"recipes": found})
        return
    width = max(len(name) for name in presets.NAMES)
    for entry in found:
        click.echo(f"{entry['name']:<{width}}  {entry['description']}")


@recipes.command()
@click.argument("name")
@_JSON
@click.pass_obj
def show(outer_json: bool, name: str, *, as_json: bool) -> None:  # noqa: FBT001  (click passes it by position)
    """Print the recipe NAME as the file that it is, to begin one of your own with."""
    from ptq import presets

    if as_json or outer_json:
        _echo_json(_entry(name))
        return
    click.echo(presets.text(name), nl=False)


def _entry(name: str) -> dict[str, Any]:
    from ptq import presets

    said = presets.options(name)
    return {"name": name, "description": said.pop("description"), "options": said}


def _echo_json(content: dict[str, Any]) -> None:
    click.echo(json.dumps(content, indent=2, allow_nan=False))
