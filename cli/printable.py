"""Text as a terminal may be given it: names in models are of anybody's making, and must not move it."""

from __future__ import annotations


def printable(text: str) -> str:
    """A text with what is neither printed nor the end of a line as Python writes it."""
    return "".join(each if each.isprintable() or each == "\n" else ascii(each)[1:-1] for each in text)
