"""Ranks that tell each other that they are alive: a machine without power or network closes no connection."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Final

from ptq.errors import OptionError
from ptq.ranks import Ranks

SILENCE: Final = "PTQ_SILENCE"
"""The environment variable of how many seconds a rank may be silent."""

_USUAL_SECONDS: Final = 120.0
_BEATS: Final = 10
"""So many times in that time a rank says that it is alive."""


@contextmanager
def beating(here: Ranks, lost: Callable[[str], None]) -> Iterator[None]:
    """While this lasts, say that this rank is alive, and call `lost` with a line where another one is silent for long.

    It is called from another thread, as this one may be waiting for the rank that is lost.

    Raises:
        OptionError: the environment says no number of seconds.

    """
    seconds, done = _seconds(), threading.Event()
    thread = threading.Thread(target=_watch, args=(here, lost, seconds, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        with suppress(RuntimeError):
            here.leave()


def _seconds() -> float:
    said = os.environ.get(SILENCE) or str(_USUAL_SECONDS)
    try:
        seconds = float(said)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise OptionError(f"{SILENCE}={said} is no number of seconds; give for example {SILENCE}=120")
    return seconds


def _watch(here: Ranks, lost: Callable[[str], None], seconds: float, done: threading.Event) -> None:
    heard: dict[int, tuple[bytes | None, float]] = {}
    last = time.monotonic()
    while not done.wait(seconds / _BEATS):
        now = time.monotonic()
        if now - last > seconds / 2:  # this process itself was not running
            heard.clear()
        last = now
        with suppress(RuntimeError):  # of a store that is out of reach, as silent as all that are behind it
            here.beat(str(now))
            for rank, said in here.beats().items():
                if rank not in heard or said is None or said != heard[rank][0]:
                    heard[rank] = said, now
        silent = [rank for rank, (_, at) in heard.items() if now - at > seconds]
        if silent:
            lost(f"{', '.join(map(here.name, silent))} has been silent for {seconds:g} s; start again when it is back")
            return
