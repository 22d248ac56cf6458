"""Progress bars on a terminal, silence elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import rich.progress

from cli.terminal import Terminal
from ptq.pipeline.stages import Advance, Stages


class Progress(Stages):
    """Stages that are shown as bars on the standard error when that is a terminal."""

    def __init__(self) -> None:
        super().__init__()
        self.out = Terminal()
        self._console = Terminal(stderr=True)
        columns = (
            rich.progress.TextColumn("{task.description:<10}"),
            rich.progress.BarColumn(),
            rich.progress.MofNCompleteColumn(),
            rich.progress.TimeElapsedColumn(),
        )
        self._bars = rich.progress.Progress(*columns, console=self._console, disable=not self._console.is_terminal)

    def __enter__(self) -> Progress:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def say(self, line: str) -> None:
        """Print a line above the bars."""
        if self._console.is_terminal:
            self._bars.console.print(line, markup=False)

    @contextmanager
    def shown(self, name: str, total: int | None) -> Iterator[Advance]:
        """Show a bar."""
        task = self._bars.add_task(name, total=total)
        yield lambda: self._bars.advance(task)
        self._bars.update(task, total=total or 1, completed=total or 1)
