"""Help fits a screen and shows an example; what is misspelt is suggested; colours go where they are not wanted."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner
from command import Command
from small_folder import Folder

from cli.main import commands

SCREEN = 32


def all_commands(group: click.Group, words: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    found = [words]
    for name, command in group.commands.items():
        inner = isinstance(command, click.Group)
        found += all_commands(command, (*words, name)) if inner else [(*words, name)]
    return found


EVERY = all_commands(commands)


def helped(*words: str) -> str:
    done = CliRunner(env={"COLUMNS": "80"}).invoke(commands, [*words], prog_name="ptq", terminal_width=80)
    assert done.exit_code == 0, done.output
    return done.output


@pytest.mark.parametrize("words", EVERY, ids=lambda words: " ".join(words) or "ptq")
def test_every_help_fits_a_screen_and_shows_an_example(words: tuple[str, ...]) -> None:
    said = helped(*words, "--help")
    assert len(said.splitlines()) <= SCREEN
    if words:
        assert f"\n  ptq {' '.join(words)} " in said


def test_help_all_has_every_option() -> None:
    said = helped("quantize", "--help-all")
    (command,) = (each for name, each in commands.commands.items() if name == "quantize")
    options = [option for param in command.params for option in param.opts if option.startswith("--")]
    assert len(options) > 35
    assert [option for option in options if option not in said] == []
    assert "--rounding" not in helped("quantize", "--help")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["quantise"], "no such command 'quantise'; did you mean 'quantize'?"),
        (["formats", "shw"], "no such command 'shw'; did you mean 'show'?"),
        (["inspect", "x", "--formt", "json"], "--format"),
        (["inspect", "x", "--format", "jsn"], "'text', 'json'"),
        (["recipes", "show", "int5"], "did you mean"),
        (["quantize", "x", "--calib", "y"], "Did you mean '--data'?"),
        (["compare", "x", "y", "--data", "z"], "Did you mean '--eval'?"),
        (["sweep", "x", "--method", "rtn"], "Did you mean '--methods'?"),
    ],
)
def test_what_is_misspelt_is_suggested(ptq: Command, arguments: list[str], said: str) -> None:
    ptq(*arguments).fails(said, code=2)


def test_every_command_that_prints_a_table_prints_json(ptq: Command, folder: Folder) -> None:
    job = ("--method", "rtn", "--weights", "int8", "-o", folder.output)
    data = ("--eval", folder.data)
    for words in (
        ("inspect", folder.model),
        ("formats",),
        ("recipes",),
        ("quantize", folder.model, *job, "--dry-run"),
        ("quantize", folder.model, *job),
        ("compare", folder.model, folder.output, *data),
        ("sweep", folder.model, *data, "--methods", "rtn", "--bits", 8),
    ):
        run = ptq(*words, "--format", "json")
        assert run.code == 0, run.err
        assert json.loads(run.out)


@pytest.mark.parametrize(
    ("wanted", "colored"), [({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False), ({}, False)]
)
def test_no_color_is_respected(
    folder: Folder, ptq: Command, monkeypatch: pytest.MonkeyPatch, wanted: dict[str, str], colored: bool
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in wanted.items():
        monkeypatch.setenv(name, value)
    run = ptq("compare", folder.model, folder.model, "--eval", folder.data)
    assert ("\x1b[3" in run.out) is colored


def test_the_shell_completes() -> None:
    environment = {**os.environ, "_PTQ_COMPLETE": "bash_complete", "COMP_WORDS": "ptq com", "COMP_CWORD": "1"}
    command = [sys.executable, "-c", "from cli import main; main()"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.stdout.splitlines() == ["plain,compare"]
