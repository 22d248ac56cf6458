"""Who works on a run: this process, or several of them, on one machine or on more, as `torchrun` starts them.

What they say to each other here are lines of text, in a store that is there before all are, and when one is gone.
"""

from __future__ import annotations

import json
import os
import socket
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch.distributed.distributed_c10d import Store

_SIZE, _LOCAL_SIZE, _RANK = "WORLD_SIZE", "LOCAL_WORLD_SIZE", "RANK"
_ERROR_FILE = "TORCHELASTIC_ERROR_FILE"
_HOST, _ENDED, _SEEN = "ptq/host/{}", "ptq/ended/{}", "ptq/seen/{}"
_ALIVE, _LEFT = "ptq/alive/{}", "ptq/left/{}"
_GRACE: Final = 3.0
"""Seconds in which ranks that are alive say so when another one is gone."""


@dataclass(frozen=True)
class Ranks:
    """A process by its number among `size` that work together."""

    rank: int = 0
    size: int = 1
    _store: Store | None = None

    @property
    def on_machine(self) -> int:
        """How many there are on this machine, as far as `torchrun` tells."""
        return int(os.environ.get(_LOCAL_SIZE, "1")) if self.size > 1 else 1

    def owners(self, costs: Sequence[float]) -> list[int]:
        """The rank that does each of several things, so that all have about as much to do (longest first)."""
        load, found = [0.0] * self.size, [0] * len(costs)
        for place in sorted(range(len(costs)), key=lambda place: -costs[place]):
            found[place] = load.index(min(load))
            load[found[place]] += costs[place]
        return found

    def ended(self) -> str | None:
        """Which rank ended before its time, and what it said; None when all are there."""
        if self._store is None:
            return None
        others = [rank for rank in range(self.size) if rank != self.rank]
        with suppress(RuntimeError):  # of a store that is gone too
            self._store.set(_SEEN.format(self.rank), "")
            last = time.monotonic() + _GRACE
            while time.monotonic() < last:
                for rank in others:
                    if self._store.check([_ENDED.format(rank)]):
                        said = self._store.get(_ENDED.format(rank)).decode()
                        return f"{self.name(rank)}: {said}"
                if all(self._store.check([_SEEN.format(rank)]) for rank in others):
                    return None
                time.sleep(0.05)
            gone = [rank for rank in others if not self._store.check([_SEEN.format(rank)])]
            names = ", ".join(map(self.name, gone))
            return f"{names} ended without a word, killed or out of memory; start again, what was finished is kept"
        return None

    def speaks(self) -> bool:
        """Whether no rank before this one is left to say that another one ended."""
        before = [name.format(rank) for rank in range(self.rank) for name in (_ENDED, _SEEN)]
        with suppress(RuntimeError):
            return self._store is None or not any(self._store.check([name]) for name in before)
        return self.rank == 0

    def tell(self, message: str) -> bool:
        """Say to the others, and to `torchrun`, why this rank ends; whether it is to say so to the user as well."""
        if self._store is not None:
            with suppress(RuntimeError):
                self._store.set(_ENDED.format(self.rank), message)
        if _ERROR_FILE in os.environ:
            about = {"message": message, "extraInfo": {"timestamp": str(int(time.time()))}}
            with suppress(OSError):
                Path(os.environ[_ERROR_FILE]).write_text(json.dumps({"message": about}), encoding="utf-8")
        return self.rank == 0

    def beat(self, said: str) -> None:
        """Say something that was not said before, as a sign of life."""
        if self._store is not None:
            self._store.set(_ALIVE.format(self.rank), said)

    def beats(self) -> dict[int, bytes | None]:
        """What each of the others said last by `beat`; None for those that have not begun, or have ended."""
        if self._store is None:
            return {}
        found: dict[int, bytes | None] = {}
        for rank in (rank for rank in range(self.size) if rank != self.rank):
            alive, ended = _ALIVE.format(rank), (_LEFT.format(rank), _ENDED.format(rank))
            there = self._store.check([alive]) and not any(self._store.check([each]) for each in ended)
            found[rank] = self._store.get(alive) if there else None
        return found

    def leave(self) -> None:
        """Say that this rank has done its part."""
        if self._store is not None:
            self._store.set(_LEFT.format(self.rank), "")

    def name(self, rank: int) -> str:
        """What a user calls a rank."""
        key = _HOST.format(rank)
        with suppress(RuntimeError):
            if self._store is not None and self._store.check([key]):
                return f"rank {rank} on {self._store.get(key).decode()}"
        return f"rank {rank}"


_JOINED: Final[list[Ranks]] = []


def ranks() -> Ranks:
    """The processes that work on this run; only this one, but within `joined`."""
    return _JOINED[-1] if _JOINED else Ranks()


def asked_for() -> bool:
    """Whether this process was started as one of several."""
    return os.environ.get(_SIZE, "1") != "1" and _RANK in os.environ


@contextmanager
def present(store: Store, rank: int, size: int) -> Iterator[Ranks]:
    """Be one of several while this lasts; they say lines of text to each other in a store."""
    here = Ranks(rank, size, store)
    store.set(_HOST.format(rank), socket.gethostname())
    _JOINED.append(here)
    yield here
    _JOINED.remove(here)  # not after an error, which the others are yet to be told


@contextmanager
def alone() -> Iterator[None]:
    """Work without the others while this lasts, which do not wait for it."""
    here = Ranks()
    _JOINED.append(here)
    try:
        yield
    finally:
        _JOINED.remove(here)
