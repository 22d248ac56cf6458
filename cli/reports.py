"""The files that a command writes besides its main work."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from cli.options import Command

_FILE = click.Path(path_type=Path)


@dataclass(frozen=True)
class Reports:
    """Where reports go, if anywhere."""

    json: Path | None
    html: Path | None
    overwrite: bool

    def check(self, read: Sequence[object]) -> None:
        """Refuse early what could not be written; `read` are the inputs.

        Raises:
            OutputError: a file is an input, or exists and may not be overwritten.

        """
        from ptq.pipeline.output import check_free, check_not_input

        outputs = [path for path in (self.json, self.html) if path is not None]
        for path in outputs:
            check_not_input(path, [each for each in read if isinstance(each, (str, Path))])
            check_free(path, overwrite=self.overwrite)
        if len({path.resolve() for path in outputs}) < len(outputs):
            raise click.UsageError(f"--html and --json are the same file, {self.html}; give two names")

    def write(self, json: Callable[[], str], html: Callable[[], str]) -> None:
        """Write what is wanted."""
        from ptq.pipeline.output import write_atomically

        for path, content in ((self.json, json), (self.html, html)):
            if path is not None:
                write_atomically(path, content().encode(), overwrite=self.overwrite)


def report_options(command: Command) -> Command:
    """Where reports go, as `reports`."""

    @click.option("--html", "html_file", type=_FILE, help="Also write a report that opens in a browser.")
    @click.option("--json", "json_file", type=_FILE, help="Also write the report here, for a program.")
    @click.option("--overwrite", is_flag=True, help="Replace existing reports.")
    @functools.wraps(command)
    def wrapped(*, html_file: Path | None, json_file: Path | None, overwrite: bool, **others: Any) -> Any:
        return command(reports=Reports(json_file, html_file, overwrite), **others)

    return wrapped
