"""`ptq formats` and `ptq formats show`."""

from __future__ import annotations

import itertools
import json
from typing import Any

import click

from cli.help import Group
from cli.reports import JSON, format_option


@click.group(cls=Group, invoke_without_command=True)
@format_option
@click.pass_context
def formats(context: click.Context, *, form: str) -> None:
    """List the number formats and how they run in ONNX Runtime.

    ptq formats show fp4_e2m1
    """
    if context.invoked_subcommand is not None:
        context.obj = form  # `ptq formats --format json show NAME` means what it says
        return
    from cli.formats import entries

    tables = entries.families()
    others = {
        entries.VECTOR_KIND: entries.vectors(),
        entries.FITTED_KIND: entries.fitted(),
        entries.BLOCK_KIND: entries.blocks(),
    }
    if form == JSON:
        listed = {"formats": itertools.chain.from_iterable(tables.values()), **others}
        _echo_json({kind: [entry.facts for entry in of] for kind, of in listed.items()})
        return
    from cli.formats.printing import print_list

    print_list({**tables, **others})


@formats.command()
@click.argument("name")
@format_option
@click.pass_obj
def show(outer: str, name: str, *, form: str) -> None:
    """Show the numbers of the format NAME and how it runs.

    Numbers are listed with their codes up to 8 bits; those of block formats are to be multiplied by a scale.

    ptq formats show fp4_e2m1
    """
    from cli.formats.entries import find

    entry = find(name)
    if JSON in {form, outer}:
        _echo_json({**entry.facts, **entry.more})
        return
    from cli.formats.printing import print_entry

    print_entry(entry)


def _echo_json(content: dict[str, Any]) -> None:
    click.echo(json.dumps(content, indent=2, allow_nan=False))
