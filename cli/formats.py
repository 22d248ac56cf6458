"""`ptq formats` and `ptq formats show`."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from ptq.fitted import Fitted
    from ptq.formats import Format
    from ptq.support import Support

_FITTED = "fitted"
_LISTED_BITS = 8
"""Formats up to this width have few enough numbers to show them all."""

_NO_LIMIT = 1000

_JSON = click.option("--json", "as_json", is_flag=True, help="Print JSON for a program to read.")

_LEGEND = """\
range    smallest to largest; `ptq formats show NAME` has every digit
least    the smallest number above 0
ONNX     the type, and the first opset that has it
int8     the integer kernels of Conv, Gemm and MatMul compute with the numbers
float32  the float kernels compute with them; only the file is smaller
Cast     the stored numbers are cast, once, when ONNX Runtime loads the file
table    the same, of codes that are looked up in a table of the numbers
blocks   weights of MatMul with a scale per block run in MatMulNBits
fitted   each tensor gets its own, of weights; `ptq formats show NAME` says how
"""


@dataclass(frozen=True)
class Entry:
    """What is said of a format, whatever its kind."""

    name: str
    family: str
    bits: float
    count: int
    min: float
    max: float
    least: float
    gap: float
    step: float
    onnx: str | None
    opset: int | None
    runs: Support
    coded: tuple[tuple[int, float], ...]
    """Bit patterns and their numbers, ascending by number."""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        runs = self.runs
        return {
            "name": self.name,
            "family": self.family,
            "bits": self.bits,
            "count": self.count,
            "min": self.min,
            "max": self.max,
            "smallest_positive": self.least,
            "smallest_step": self.gap,
            "multiples_of": self.step,
            "onnx": None if self.onnx is None else {"type": self.onnx, "opset": self.opset},
            "stored_as": runs.stored_as,
            "decoded_by": runs.decoded_by,
            "computed_in": runs.computed_in,
            "block_weights": None if runs.blocks_from is None else {"op": "MatMulNBits", "opset": runs.blocks_from},
            "activations": runs.activations,
        }


@click.group(invoke_without_command=True)
@_JSON
@click.pass_context
def formats(context: click.Context, *, as_json: bool) -> None:
    """List the number formats and how they run in ONNX Runtime."""
    if context.invoked_subcommand is not None:
        context.obj = as_json  # `ptq formats --json show NAME` means what it says
        return
    from rich.console import Console

    from ptq.fitted import FITTED

    groups = _entries()
    if as_json:
        listed = [entry.as_dict() for entries in groups.values() for entry in entries]
        _echo_json({"formats": listed, _FITTED: [_fitted_dict(fitted) for fitted in FITTED.values()]})
    else:
        _print_table(groups, FITTED, Console(highlight=False))


@formats.command()
@click.argument("name")
@_JSON
@click.pass_obj
def show(outer_json: bool, name: str, *, as_json: bool) -> None:  # noqa: FBT001  (click passes it by position)
    """Show the numbers of the format NAME and how it runs.

    Numbers are listed with their codes up to 8 bits.
    """
    from rich.console import Console

    from ptq import registry
    from ptq.fitted import FITTED, Fitted

    members = {fmt.name: _entry(fmt, _FITTED) for fitted in FITTED.values() for fmt in fitted.members}
    listed = {entry.name: entry for entries in _entries().values() for entry in entries}
    known: dict[str, Entry | Fitted] = {**FITTED, **members, **listed}
    entry = registry.get("format", name, known)
    if isinstance(entry, Fitted):
        if as_json or outer_json:
            _echo_json(_fitted_dict(entry))
        else:
            _print_lines(_fitted_lines(entry), Console(highlight=False))
        return
    coded = entry.coded if entry.bits <= _LISTED_BITS else None
    if as_json or outer_json:
        values = None if coded is None else [{"code": code, "value": value} for code, value in coded]
        _echo_json({**entry.as_dict(), "explained": dict(entry.runs.explained), "values": values})
    else:
        _print_entry(entry, Console(highlight=False))


def _entries() -> Mapping[str, Sequence[Entry]]:
    """Every format by family; the families of which ONNX has most come first."""
    from ptq.formats import FAMILIES

    found = {family: [_entry(fmt, family) for fmt in members] for family, members in FAMILIES.items()}
    known = {family: (sum(entry.onnx is not None for entry in of), len(of)) for family, of in found.items()}
    return {family: found[family] for family in sorted(found, key=lambda family: known[family], reverse=True)}


def _entry(fmt: Format, family: str) -> Entry:
    from ptq.support import support

    return Entry(
        fmt.name,
        family,
        fmt.bits,
        len(fmt.values),
        fmt.min,
        fmt.max,
        min(value for value in fmt.values if value > 0),
        min(above - below for below, above in zip(fmt.values, fmt.values[1:], strict=False)),
        fmt.step,
        fmt.onnx,
        fmt.least_opset,
        support(fmt),
        tuple((code % 2**fmt.bits, value) for code, value in zip(fmt.codes, fmt.values, strict=True)),
    )


def _fitted_dict(fitted: Fitted) -> dict[str, Any]:
    return {
        "name": fitted.name,
        "bits": fitted.bits,
        "about": fitted.about,
        "scale": "largest" if fitted.whole else "searched",
        "members": [fmt.name for fmt in fitted.members] or None,
    }


def _fitted_lines(fitted: Fitted) -> list[tuple[str, str]]:
    searched = "a channel, or what --group says; searched"
    made = "made for the tensor, whose table is stored with it"
    return [
        ("format", f"{fitted.name}, {_FITTED} to each tensor"),
        ("bits", f"{fitted.bits}"),
        ("numbers", fitted.about),
        ("formats", ", ".join(fmt.name for fmt in fitted.members) or made),
        ("scale", "one a tensor, that of its largest number" if fitted.whole else searched),
        ("computed", "in float32; integer kernels do not take it, and it is for weights and embeddings only"),
        ("stored", "as bytes of codes; a table lookup to float32 folds when the file is loaded"),
    ]


def _echo_json(content: dict[str, Any]) -> None:
    click.echo(json.dumps(content, indent=2, allow_nan=False))


def _print_table(groups: Mapping[str, Sequence[Entry]], fitted: Mapping[str, Fitted], console: Console) -> None:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    # one space between columns: with it everything fits a terminal of 80
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    for title in ("name", "bits", "values", "range", "least", "ONNX", "runs in"):
        right = title in ("bits", "values", "range", "least")
        table.add_column(title, justify="right" if right else "left", no_wrap=True)
    for family, entries in groups.items():
        table.add_row()
        table.add_row(Text(family, "bold"))
        for entry in entries:
            table.add_row(*(Text(cell) for cell in _cells(entry)))
    table.add_row()
    table.add_row(Text(_FITTED, "bold"))
    for name, each in fitted.items():
        table.add_row(name, f"{each.bits}", "-", "-", "-", "-", "float32, table")
    # rather lines that are too long for a terminal than numbers in pieces
    console.width = max(console.width, console.measure(table, options=console.options.update(width=_NO_LIMIT)).maximum)
    console.print(table)
    console.print()
    console.print(Text(_LEGEND.rstrip()), soft_wrap=True)


def _cells(entry: Entry) -> tuple[str, ...]:
    onnx = "-" if entry.onnx is None else f"{entry.onnx} {entry.opset}"
    span = f"{_short(entry.min)}..{_short(entry.max)}"
    return (entry.name, f"{entry.bits:g}", str(entry.count), span, _short(entry.least), onnx, entry.runs.short)


def _short(value: float) -> str:
    """A number in few characters: as it is, as a power of two where that is shorter, else rounded."""
    plain = f"{value:g}"
    if float(plain) == value and len(plain.lstrip("-")) <= 5:
        return plain
    fraction, exponent = math.frexp(abs(value))
    if fraction == 0.5:
        return f"{'-' * (value < 0)}2^{exponent - 1}"
    return f"{value:.3g}"


def _print_entry(entry: Entry, console: Console) -> None:
    from rich.text import Text

    onnx = "no type" if entry.onnx is None else f"{entry.onnx}, from opset {entry.opset} on"
    lines = [
        ("format", f"{entry.name}, {entry.family}"),
        ("bits", f"{entry.bits:g}, with {entry.count} numbers"),
        ("range", f"{entry.min!r} .. {entry.max!r}"),
        ("least", f"{entry.least!r} above 0"),
        ("step", f"{entry.gap!r} between the nearest two; all are multiples of {entry.step!r}"),
        ("ONNX", onnx),
        *entry.runs.explained,
    ]
    _print_lines(lines, console)
    console.print()
    if entry.bits > _LISTED_BITS:
        console.print(f"{entry.count} numbers are too many to list", soft_wrap=True)
    else:
        console.print(Text("\n".join(_columns(entry, console.width))), soft_wrap=True)


def _print_lines(lines: Sequence[tuple[str, str]], console: Console) -> None:
    """One word that says what about, and what."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(2):
        table.add_column(overflow="fold")
    for line in lines:
        table.add_row(*(Text(cell) for cell in line))
    console.print(table)


def _columns(entry: Entry, width: int) -> list[str]:
    """Codes and numbers, reading down and then right, in as many columns as fit."""
    digits = math.ceil(entry.bits / 4)
    longest = max(len(repr(value)) for _, value in entry.coded)
    cells = [f"0x{code:0{digits}x} {value!r:>{longest}}" for code, value in entry.coded]
    across = max(1, (width + 3) // (len(cells[0]) + 3))
    down = math.ceil(len(cells) / across)
    return ["   ".join(cells[row::down]) for row in range(down)]
