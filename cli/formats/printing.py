"""The list of formats, and one of them, on the terminal."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from rich import box
from rich.table import Table
from rich.text import Text

from cli.formats.entries import Entry
from cli.terminal import Terminal

_NO_LIMIT: Final = 1000

_RIGHT: Final = frozenset({"bits", "values", "range", "least", "group"})
"""Titles of columns of numbers."""

_LEGEND: Final = """\
range    smallest to largest; `ptq formats show NAME` has every digit
least    the smallest number above 0
ONNX     the type, and the first opset that has it
int8     the integer kernels of Conv, Gemm and MatMul compute with the numbers
float32  the float kernels compute with them; only the file is smaller
Cast     the stored numbers are cast, once, when ONNX Runtime loads the file
table    the same, of codes that are looked up in a table of the numbers
blocks   weights of MatMul with a scale per block run in MatMulNBits
vectors  a code stands for several numbers, as many as behind the x
fitted   each tensor gets its own, of weights; `ptq formats show NAME` says how
block    numbers in groups along a row with a scale each, counted in the bits;
         float32 besides: one more for the tensor; ONNX has no type for them
"""


def print_list(sections: Mapping[str, Sequence[Entry]]) -> None:
    """Entries under the names of their families; families with the same columns in one table."""
    console = Terminal()
    for titles, of in itertools.groupby(sections.items(), key=lambda section: tuple(section[1][0].cells)):
        table = _table(titles, of)
        # rather lines that are too long for a terminal than numbers in pieces
        widest = console.measure(table, options=console.options.update(width=_NO_LIMIT)).maximum
        console.width = max(console.width, widest)
        console.print(table)
        console.print()
    console.print(Text(_LEGEND.rstrip()), soft_wrap=True)


def print_entry(entry: Entry) -> None:
    """All that is known of one, then its codes and numbers."""
    console = Terminal()
    table = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(2):
        table.add_column(overflow="fold")
    for line in entry.lines:
        table.add_row(*map(Text, line))
    console.print(table)
    if entry.coded:
        console.print()
        console.print(Text("\n".join(_columns(entry, console.width))), soft_wrap=True)


def _table(titles: Sequence[str], sections: Iterable[tuple[str, Sequence[Entry]]]) -> Table:
    # one space between columns: with it everything fits a terminal of 80
    table = Table(box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    for title in titles:
        table.add_column(title, justify="right" if title in _RIGHT else "left", no_wrap=True)
    for family, entries in sections:
        table.add_row()
        table.add_row(Text(family, "bold"))
        for entry in entries:
            table.add_row(*map(Text, entry.cells.values()))
    return table


def _columns(entry: Entry, width: int) -> list[str]:
    """Codes and numbers, reading down and then right, in as many columns as fit."""
    digits = math.ceil(entry.bits / 4)
    longest = max(len(repr(value)) for _, value in entry.coded)
    cells = [f"0x{code:0{digits}x} {value!r:>{longest}}" for code, value in entry.coded]
    across = max(1, (width + 3) // (len(cells[0]) + 3))
    down = math.ceil(len(cells) / across)
    return ["   ".join(cells[row::down]) for row in range(down)]
