"""Help that fits a screen, and says what was likely meant."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from types import MappingProxyType
from typing import Any, Final

import click

from ptq.errors import suggest

_CALLED, _ALL = "ptq.called", "ptq.help_all"


class Group(click.Group):
    """A group of commands that remembers how it was called, and suggests the nearest of an unknown name."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse, and keep the words."""
        ctx.meta.setdefault(_CALLED, shlex.join([ctx.info_name or "", *args]))
        return super().parse_args(ctx, args)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command of that name."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            raise click.UsageError(f"no such command {args[0]!r}; {suggest(args[0], self.list_commands(ctx))}", ctx)
        return super().resolve_command(ctx, args)


def command_line() -> str:
    """The command line that is being run."""
    found: str = click.get_current_context().meta[_CALLED]
    return found


_MEANT: Final = MappingProxyType(
    {
        "--calib": "--data",
        "--calibration": "--data",
        "--data": "--eval",
        "--dataset": "--data",
        "--dtype": "--weights",
        "--evaluation": "--eval",
        "--exclude": "--keep-float",
        "--force": "--overwrite",
        "--method": "--methods",
        "--out": "--output",
        "--report": "--html",
        "--test": "--eval",
        "--wbits": "--weights",
    }
)
"""What others call an option, which no likeness of letters tells."""


class Plain(click.Command):
    """A command that suggests what an unknown option stands for."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            meant = _MEANT.get(error.option_name)
            if meant is not None and any(meant in each.opts for each in self.params):
                said = f"No such option {error.option_name!r}. Did you mean {meant!r}?"
                raise click.UsageError(said, ctx) from error
            raise


class Long(Plain):
    """A command whose help shows the options of most runs, those named `main`; --help-all shows the others too."""

    def __init__(self, *args: Any, main: Collection[str], **others: Any) -> None:
        super().__init__(*args, **others)
        self._main = frozenset(main)
        self.params.append(
            click.Option(
                ["--help-all"],
                is_flag=True,
                is_eager=True,
                expose_value=False,
                help="Show all options, of which these are the main ones.",
                callback=_show_all,
            )
        )

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options that are shown."""
        shown = {*self._main, "help_all", "help"}
        params = [each for each in self.get_params(ctx) if ctx.meta.get(_ALL) or each.name in shown]
        records = [record for each in params if (record := each.get_help_record(ctx)) is not None]
        with formatter.section("Options"):
            formatter.write_dl(records)


def _show_all(ctx: click.Context, _: click.Parameter, value: bool) -> None:  # noqa: FBT001  (click passes it so)
    if value and not ctx.resilient_parsing:
        ctx.meta[_ALL] = True
        click.echo(ctx.get_help(), color=ctx.color)
        ctx.exit()
