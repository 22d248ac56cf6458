"""`ptq formats` and `ptq formats show`."""

from __future__ import annotations

import itertools
import json
from typing import Any

import click

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for a program to read.")


@click.group(invoke_without_command=True)
@_JSON
@click.pass_context
def formats(context: click.Context, *, as_json: bool) -> None:
    """List the number formats and how they run in ONNX Runtime."""
    if context.invoked_subcommand is not None:
        context.obj = as_json  # `ptq formats --json show NAME` means what it says
        return
    from cli.formats import entries

    tables = entries.families()
    others = {
        entries.VECTOR_KIND: entries.vectors(),
        entries.FITTED_KIND: entries.fitted(),
        entries.BLOCK_KIND: entries.blocks(),
    }
    if as_json:
        listed = {"formats": itertools.chain.from_iterable(tables.values()), **others}
        _echo_json({kind: [entry.facts for entry in of] for kind, of in listed.items()})
        return
    from cli.formats.printing import print_list

    print_list({**tables, **others})


@formats.command()
@click.argument("name")
@_JSON
@click.pass_obj
def show(outer_json: bool, name: str, *, as_json: bool) -> None:  # noqa: FBT001  (click passes it by position)
    """Show the numbers of the format NAME and how it runs.

    Numbers are listed with their codes up to 8 bits; those of block formats are to be multiplied by a scale.
    """
    from cli.formats.entries import find

    entry = find(name)
    if as_json or outer_json:
        _echo_json({**entry.facts, **entry.more})
        return
    from cli.formats.printing import print_entry

    print_entry(entry)


def _echo_json(content: dict[str, Any]) -> None:
    click.echo(json.dumps(content, indent=2, allow_nan=False))
