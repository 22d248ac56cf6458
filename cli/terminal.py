"""The console that commands print on."""

from __future__ import annotations

from collections.abc import Iterable

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

from cli.printable import printable


class Terminal(Console):
    """A console that prints text as it is printable."""

    def __init__(self, *, stderr: bool = False) -> None:
        super().__init__(stderr=stderr, highlight=False)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """The parts of a renderable."""
        for part in super().render(renderable, options):
            yield part if part.control else Segment(printable(part.text), part.style)
