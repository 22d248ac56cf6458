"""The group of commands, and what every command does about errors."""

from __future__ import annotations

import atexit
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from threading import Event
from types import FrameType

import click

import ptq
from cli.cache import cache
from cli.compare import compare
from cli.diagnose import diagnose
from cli.formats import formats
from cli.help import Group
from cli.inspect import inspect
from cli.interrupt import ends_soon
from cli.memory import ran_out
from cli.printable import printable
from cli.quantize import quantize
from cli.recipes import recipes
from cli.sweep import sweep
from ptq import heap
from ptq.errors import DistributedError, OptionError, PtqError
from ptq.ranks import Ranks, asked_for, ranks

USAGE_EXIT, INTERRUPTED_EXIT = 2, 130
_INTERRUPTED = "interrupted; nothing was written, and what was finished is kept: the same command goes on from there"
_OUT_OF_MEMORY = "out of memory; nothing was written, use a machine with more or a smaller model"
_SAID = Event()
_LONGEST = 2000
"""Characters of an error; names in models may be of any length."""


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(ptq.__version__, prog_name="ptq")
def commands() -> None:
    """Quantize trained models to small ONNX files that stock ONNX Runtime runs fast, and measure them.

    Exit codes: 0 done, 1 the model, data or output is at fault, 2 an option is, 3 a warning under --strict,
    130 interrupted.
    """
    if ranks().size > 1 and click.get_current_context().invoked_subcommand != quantize.name:
        raise OptionError("only ptq quantize works with several processes; start this command without torchrun")


commands.add_command(quantize)
commands.add_command(cache)
commands.add_command(compare)
commands.add_command(diagnose)
commands.add_command(formats)
commands.add_command(inspect)
commands.add_command(recipes)
commands.add_command(sweep)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command and exit with its code; an error is one line on the standard error."""
    # read when torch is loaded. Threads that wait actively keep those they wait for from running when other processes
    # want the cores too: rounding MiniLM beside two busy ones took 117 s, and takes 9 s so
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if asked_for():  # so is this: of ranks that are gone we say it ourselves, in one line
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
    heap.part()
    signal.signal(signal.SIGTERM, _interrupt)
    with ExitStack() as stack:  # which ends when the errors of what is inside were told to the other ranks
        code = _command(None if arguments is None else list(arguments), stack)
    sys.exit(code)


def _command(arguments: list[str] | None, stack: ExitStack) -> int:  # noqa: PLR0911  (one for each kind of error)
    try:
        stack.enter_context(ends_soon(_give_up))
        if asked_for():
            from ptq.distributed import joined

            stack.enter_context(joined(_lost))
        _check_text(sys.argv[1:] if arguments is None else arguments)
        code = commands.main(arguments, prog_name="ptq", standalone_mode=False)
    except DistributedError as error:
        return _ended(ranks(), str(error))
    except PtqError as error:
        return _fail(_OUT_OF_MEMORY, 1) if ran_out(error) else _fail(str(error), error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return USAGE_EXIT
    except click.ClickException as error:
        return _fail(error.format_message(), USAGE_EXIT)
    except (click.Abort, KeyboardInterrupt):
        return _interrupted()
    except (MemoryError, RuntimeError, OSError) as error:
        if ran_out(error):
            return _fail(_OUT_OF_MEMORY, 1)
        if not isinstance(error, OSError):
            raise
        place = f": {error.filename}" if error.filename else ""
        return _fail(f"{error.strerror or error}{place}; free space, or name another place", 1)
    return int(code or 0)


def _check_text(arguments: Sequence[str]) -> None:
    """Refuse names that no report, and no file of a model, could hold."""
    for each in arguments:
        try:
            each.encode()
        except UnicodeEncodeError:
            raise click.UsageError(f"{each!r} is no text in UTF-8; rename the file") from None


def _fail(message: str, code: int) -> int:
    """Say what went wrong."""
    line = printable(" ".join(message.split()))
    if len(line) > _LONGEST:
        line = f"{line[: _LONGEST // 2]} … {line[-_LONGEST // 2 :]}"
    if ranks().tell(line):
        click.echo(f"ptq: {line}", err=True)
    return code


def _ended(here: Ranks, message: str) -> int:
    """Say that another rank ended the run, where no other one does; this one may be interrupted meanwhile."""
    if here.speaks() and not _SAID.is_set():
        _SAID.set()
        click.echo(f"ptq: {message}", err=True)
    return DistributedError.exit_code


def _interrupted() -> int:
    """Say that the user ended the run, or which rank did, whereupon all others are interrupted."""
    here = ranks()
    ended = here.ended()
    if ended is None:
        return _fail(_INTERRUPTED, INTERRUPTED_EXIT)
    code = _ended(here, ended)
    return INTERRUPTED_EXIT if ended.endswith(_INTERRUPTED) else code


def _give_up() -> None:
    """End the process in the middle of a call that does not come back; files that pass are removed as usual."""
    code = _interrupted()
    atexit._run_exitfuncs()
    os._exit(code)


def _lost(message: str) -> None:
    """End the process, which may be waiting for a rank that is out of reach."""
    code = _ended(ranks(), message)
    atexit._run_exitfuncs()
    os._exit(code)


def _interrupt(_signal: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt
