"""`ptq formats` as a user meets it: what it says against ml_dtypes, and how it looks in a pipe."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from types import MappingProxyType
from typing import Any, NoReturn

import ml_dtypes
import numpy as np
import pytest
from other_formats import ML_DTYPES

from cli import main
from ptq import formats
from ptq.formats.integer import IntFormat

NARROW = {"int2", "int3", "int4", "int5", "int6", "int7", "int8"}
"""Without the most negative integer."""

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture
def ptq(capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("COLUMNS", "80")

    def command(*arguments: str) -> tuple[int, str, str]:
        handler = signal.getsignal(signal.SIGTERM)
        try:
            with pytest.raises(SystemExit) as stop:
                main(arguments)
        finally:
            signal.signal(signal.SIGTERM, handler)
        return (int(stop.value.code or 0), *capfd.readouterr())

    return command


def piped(*arguments: str, **environment: str) -> str:
    """What another program reads."""
    kept = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    command = [sys.executable, "-m", "ptq", "formats", *arguments]
    env = {**kept, "PYTHONWARNINGS": "error", "PYTHONIOENCODING": "utf-8", **environment}
    return subprocess.run(command, capture_output=True, check=True, env=env).stdout.decode()


def strict(text: str) -> Any:
    def refuse(constant: str) -> NoReturn:
        pytest.fail(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


def shown(text: str) -> list[tuple[int, str]]:
    """Codes and numbers as they are printed, ascending by number."""
    found = re.findall(r"\b0x([0-9a-f]+) +(\S+)", text)
    return sorted(((int(code, 16), value) for code, value in found), key=lambda pair: float(pair[1]))


def test_the_table_fits_a_pipe() -> None:
    table, _, legend = piped().partition("\nrange ")
    lines = [line.rstrip() for line in table.splitlines()]
    assert legend
    assert max(map(len, lines)) <= 80
    assert "…" not in table
    assert "..." not in table
    assert "\x1b" not in table
    for name, fmt in formats.FORMATS.items():
        (line,) = [line.split() for line in lines if line.startswith(f"{name} ")]
        assert line[:3] == [name, str(fmt.bits), str(len(fmt.values))]
        assert fmt.onnx is None or line[5:7] == [fmt.onnx, str(fmt.least_opset)]
        assert line[-1] in ("Cast", "table", "blocks")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("int4", "int4 4 15 -7..7 1 INT4 21 int8, blocks"),
        ("uint8", "uint8 8 256 0..255 1 UINT8 10 float32, blocks"),
        ("int3", "int3 3 7 -3..3 1 - int8, table"),
        ("fp8_e5m2", "fp8_e5m2 8 247 -57344..57344 2^-16 FLOAT8E5M2 19 float32, Cast"),
        ("fp8_e2m5", "fp8_e2m5 8 255 -3.94..3.94 2^-6 - float32, table"),
        ("fp4_e2m1", "fp4_e2m1 4 15 -6..6 0.5 FLOAT4E2M1 23 int8, table"),
        ("e8m0", "e8m0 8 255 2^-127..2^127 2^-127 FLOAT8E8M0 24 float32, table"),
        ("posit8_2", "posit8_2 8 255 -2^24..2^24 2^-24 - float32, table"),
        ("nf4", "nf4 4 16 -1..1 0.0796 - float32, table"),
    ],
)
def test_lines_of_the_table(ptq: Command, line: str, expected: str) -> None:
    _, out, _ = ptq("formats")
    assert expected.split() in [found.split() for found in out.splitlines() if found.startswith(f"{line} ")]


def test_formats_stand_under_their_family(ptq: Command) -> None:
    _, out, _ = ptq("formats")
    first = [line.split()[0] for line in out.splitlines() if line.strip()]
    families = ["integer", "minifloat", "logarithmic", "codebook", "posit"]
    assert [word for word in first if word in families] == families
    for family, member in zip(families, ["uint8", "luq_fp4", "nhot3", "steps16", "posit8_2"], strict=True):
        after = [word for word in families if first.index(word) > first.index(family)]
        assert first.index(family) < first.index(member)
        assert all(first.index(member) < first.index(word) for word in after)


def test_nothing_is_cut_off_where_the_terminal_is_narrow() -> None:
    assert piped(COLUMNS="30") == piped(COLUMNS="80")
    narrow = piped("show", "e8m0", COLUMNS="30")
    assert shown(narrow) == shown(piped("show", "e8m0"))
    assert len(shown(narrow)) == 255
    assert max(map(len, narrow.splitlines())) <= 30


def test_no_character_is_beyond_ascii_where_there_is_none() -> None:
    lines = piped(PYTHONIOENCODING="ascii").splitlines()
    assert [line.split()[-1] for line in lines if line.startswith("nf4 ")] == ["table"]
    assert not any("..." in line for line in lines)


def test_the_list_for_programs_is_that_of_ml_dtypes(ptq: Command) -> None:
    code, out, _ = ptq("formats", "--format", "json")
    assert code == 0
    said = {entry["name"]: entry for entry in strict(out)["formats"]}
    assert set(said) == set(formats.FORMATS)
    for name in set(ML_DTYPES) - {"e8m0"}:
        info = ml_dtypes.finfo(ML_DTYPES[name])
        assert (said[name]["min"], said[name]["max"]) == (float(info.min), float(info.max))
        assert said[name]["smallest_positive"] == float(info.smallest_subnormal)
        assert said[name]["smallest_step"] == float(info.smallest_subnormal)
        assert said[name]["bits"] == info.bits
    assert said["e8m0"]["smallest_positive"] == 2.0**-127
    assert said["ulog8"]["smallest_step"] == 1.046875 - 1 == 6 * said["ulog8"]["multiples_of"]
    assert said["int5"]["onnx"] is None
    assert said["fp4_e2m1"]["onnx"] == {"type": "FLOAT4E2M1", "opset": 23}
    assert said["fp4_e2m1"]["computed_in"] == "int8"
    assert said["fp4_e2m1"]["stored_as"] == "codes"


@pytest.mark.parametrize("name", ML_DTYPES)
def test_every_number_of_a_float_with_its_code(ptq: Command, name: str) -> None:
    code, out, _ = ptq("formats", "show", name)
    assert code == 0
    every = np.arange(2 ** formats.get(name).bits).astype(np.uint8).view(ML_DTYPES[name]).astype(np.float64)
    finite = [(pattern, repr(float(value))) for pattern, value in enumerate(every) if np.isfinite(value)]
    assert shown(out) == sorted((pair for pair in finite if pair[1] != "-0.0"), key=lambda pair: float(pair[1]))
    assert max(map(len, out.splitlines())) <= 80


@pytest.mark.parametrize("name", [*sorted(NARROW), "uint2", "uint4", "uint8"])
def test_every_integer_with_its_code(ptq: Command, name: str) -> None:
    _, out, _ = ptq("formats", "show", name)
    bits = int(name[-1])
    low = -(2 ** (bits - 1)) + 1 if name in NARROW else 0
    expected = [(value % 2**bits, f"{float(value)}") for value in range(low, low + 2**bits - (name in NARROW))]
    assert shown(out) == expected


@pytest.mark.parametrize(
    "arguments", [["show", "fp6_e2m3", "--format", "json"], ["--format", "json", "show", "fp6_e2m3"]], ids=" ".join
)
def test_one_format_for_programs(ptq: Command, arguments: list[str]) -> None:
    code, out, err = ptq("formats", *arguments)
    assert (code, err) == (0, "")
    said = strict(out)
    values = np.array([pair["code"] for pair in said["values"]], np.uint8).view(ml_dtypes.float6_e2m3fn)
    assert [pair["value"] for pair in said["values"]] == values.astype(float).tolist()
    assert len(values) == said["count"] == 63
    assert set(said["explained"]) == {"computed", "stored"}


def test_what_is_said_of_one_format(ptq: Command) -> None:
    _, out, _ = ptq("formats", "show", "fp4_e2m1")
    said = " ".join(out.split())
    assert "4, with 15 numbers range -6.0 .. 6.0 least 0.5 above 0" in said
    assert "FLOAT4E2M1, from opset 23 on" in said
    assert "take every number exactly, as at most 12 steps of 0.5" in said
    assert "no kernel of ONNX Runtime 1.32 on the CPU reads FLOAT4E2M1" in said
    assert "0xf -6.0" in out


def test_a_format_too_wide_to_list(ptq: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "FAMILIES", MappingProxyType({"integer": (IntFormat("int9", 9),)}))
    _, out, _ = ptq("formats", "show", "int9")
    assert "511 numbers, which are too many to list" in out
    assert "0x" not in out
    _, out, _ = ptq("formats", "show", "int9", "--format", "json")
    assert strict(out)["values"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "fp4_e2m2"], "ptq: unknown format 'fp4_e2m2'; did you mean 'fp4_e2m1'?\n"),
        (["show", "itn4", "--format", "json"], "ptq: unknown format 'itn4'; did you mean 'int4'?\n"),
        (["show"], "ptq: Missing argument 'NAME'.\n"),
        (["int4"], "ptq: no such command 'int4'; known are show\n"),
    ],
)
def test_a_wrong_name(ptq: Command, arguments: list[str], message: str) -> None:
    assert ptq("formats", *arguments) == (2, "", message)
