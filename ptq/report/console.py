"""Lines and tables on the terminal, and figures as people read them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

from rich.console import Console
from rich.table import Table
from rich.text import Text

_NO_LIMIT: Final = 1000


def print_line(console: Console, text: str, style: str = "") -> None:
    """Print a line as it is, which a terminal may wrap and a file keeps whole."""
    console.print(Text(text, style), soft_wrap=True)


def print_whole(console: Console, table: Table) -> None:
    """Print a table with rather lines that are too long for a terminal than names in pieces."""
    width = console.width
    widest = console.measure(table, options=console.options.update(width=_NO_LIMIT)).maximum
    console.width = max(width, widest)
    console.print(table)
    console.width = width


def tally(names: Iterable[str]) -> str:
    """How many there are of each name, the most common first: `12 static, 1 dynamic`."""
    return ", ".join(f"{count} {name}" for name, count in Counter(names).most_common())


def megabytes(size: int) -> str:
    """A number of bytes as people read it."""
    return f"{size / 1e6:.2f} MB" if size < 1e8 else f"{size / 1e6:.0f} MB"


def milliseconds(time: float) -> str:
    """A time with three digits, or all before the point."""
    return f"{time:.{0 if time >= 100 else 1 if time >= 10 else 2 if time >= 1 else 3}f}"
