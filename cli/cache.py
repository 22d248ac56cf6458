"""`ptq cache` and `ptq cache clear`."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import click

from cli.help import Group
from cli.printable import printable
from cli.reports import JSON, format_option

if TYPE_CHECKING:
    from ptq.cache import Entry


@click.group(cls=Group, invoke_without_command=True)
@format_option
@click.pass_context
def cache(context: click.Context, *, form: str) -> None:
    """List what is kept of runs, so that one that was killed goes on, and equal work is not done twice.

    PTQ_CACHE names the folder, PTQ_CACHE_GB how many gigabytes stay in it after a run (10); what was not used for
    longest goes first.

    ptq cache clear
    """
    if context.invoked_subcommand is not None:
        return
    from ptq.cache import opened

    store = opened()
    rows = _rows(store.entries())
    total = sum(row["bytes"] for row in rows)
    if form == JSON:
        found = {"folder": str(store.folder), "bytes": total, "most_bytes": store.most_bytes, "models": rows}
        click.echo(json.dumps(found, indent=2, allow_nan=False))
        return
    for row in rows:
        kinds = ", ".join(f"{count} {kind}" for kind, count in row["kinds"].items())
        used = time.strftime("%Y-%m-%d %H:%M", time.localtime(row["used"]))
        click.echo(f"{row['bytes'] / 1e6:>10.1f} MB  {used}  {printable(row['model'])}  ({kinds})")
    click.echo(f"{total / 1e6:>10.1f} MB in {store.folder}, {store.most_bytes / 1e9:g} GB at most after a run")


@cache.command()
@click.option("--keep-gb", type=click.FloatRange(min=0), default=0.0, help="Gigabytes that stay, those used last.")
def clear(*, keep_gb: float) -> None:
    """Remove what is kept, but for what a run that is going on may need.

    ptq cache clear --keep-gb 2
    """
    from ptq.cache import opened

    store = opened()
    dropped = store.trim(int(keep_gb * 1e9))
    left = sum(entry.bytes for entry in store.entries())
    click.echo(f"removed {dropped / 1e6:.1f} MB from {store.folder}, {left / 1e6:.1f} MB are left")


def _rows(entries: Iterable[Entry]) -> list[dict[str, Any]]:
    """What is kept of each model, the last used first."""
    rows: dict[str, dict[str, Any]] = {}
    for entry in entries:
        row = rows.setdefault(entry.about, {"model": entry.about or "unknown", "bytes": 0, "used": 0.0, "kinds": {}})
        row["bytes"] += entry.bytes
        row["used"] = max(row["used"], entry.used)
        row["kinds"][entry.kind] = row["kinds"].get(entry.kind, 0) + 1
    return sorted(rows.values(), key=lambda row: -row["used"])
