"""The command line in this process, and what a run of it came to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Run:
    """What a run of the command came to."""

    code: int
    out: str
    err: str

    def fails(self, *words: str, code: int = 1) -> None:
        assert self.code == code, self.err
        assert self.err.startswith("ptq: ")
        assert self.err.count("\n") == 1
        for word in words:
            assert word in self.err


Command = Callable[..., Run]
