"""The files that a command writes besides its main work."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from cli.help import command_line
from cli.options import Command

_FILE = click.Path(path_type=Path)
TEXT, JSON = "text", "json"
FORMS = (TEXT, JSON)


def format_option(command: Command) -> Command:
    """What is printed, as `form`."""
    wanted = click.Choice(FORMS)
    return click.option("--format", "form", type=wanted, default=TEXT, show_default=True, help="What is printed.")(
        command
    )


@dataclass(frozen=True)
class Reports:
    """Where reports go, if anywhere."""

    json: Path | None
    html: Path | None
    overwrite: bool
    form: str = TEXT
    """What is printed: text or JSON."""

    def check(self, read: Sequence[object], output: Path | None = None) -> None:
        """Refuse early what could not be written; `read` are the inputs, `output` is what else is written.

        Raises:
            OutputError: a file is an input, or exists and may not be overwritten.

        """
        from ptq.pipeline.output import check_free, check_not_input

        named = {"--json": self.json, "--html": self.html, "the output": output}
        given = [(name, path) for name, path in named.items() if path is not None]
        for (one, path), (other, same) in itertools.combinations(given, 2):
            if path.resolve() == same.resolve():
                raise click.UsageError(f"{one} and {other} are the same file, {path}; give two names")
        for name, path in given:
            if name != "the output":
                check_not_input(path, [each for each in read if isinstance(each, (str, Path))])
                check_free(path, overwrite=self.overwrite)

    def written(self, found: Any) -> AbstractContextManager[None]:
        """Files of a report, which get their names when the block ends well."""
        from ptq.pipeline.output import written
        from ptq.report import to_json

        contents = {} if self.json is None else {self.json: to_json(found).encode()}
        if self.html is not None:
            from ptq.report.html import to_html

            contents[self.html] = to_html(found, command_line()).encode()
        return written(contents, overwrite=self.overwrite)

    def show(self, found: Any, show: Callable[[], None]) -> None:
        """Print a report, by `show` where it is as text."""
        from ptq.report import to_json

        if self.form == JSON:
            click.echo(to_json(found), nl=False)
        else:
            show()

    def write(self, found: Any, show: Callable[[], None]) -> None:
        """Write what is wanted of a report, and print it."""
        with self.written(found):
            pass
        self.show(found, show)


def report_options(command: Command) -> Command:
    """Where reports go, as `reports`."""

    @click.option("--html", "html_file", type=_FILE, help="Also write a report that opens in a browser.")
    @click.option("--json", "json_file", type=_FILE, help="Also write the report here, for a program.")
    @format_option
    @click.option("--overwrite", is_flag=True, help="Replace what exists.")
    @functools.wraps(command)
    def wrapped(*, html_file: Path | None, json_file: Path | None, form: str, overwrite: bool, **others: Any) -> Any:
        return command(reports=Reports(json_file, html_file, overwrite, form), **others)

    return wrapped
