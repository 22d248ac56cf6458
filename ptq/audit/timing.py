"""How long models take, run in turns so that all see the same neighbours."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ptq.model.session import Session

_ROUNDS, _RUNS, _WARM_RUNS = 12, 3, 2
_LEAST_ROUND_SECONDS, _MOST_SECONDS = 0.01, 10.0
_MOST_RUNS = 1000
_RARE = 95

Feeds = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a run of one sample, medians over rounds, and the median of the ratios of the rounds."""

    reference_ms: float
    quantized_ms: float
    ratio: float


@dataclass(frozen=True)
class Timing:
    """Milliseconds of a run of a batch: median and 95th percentile; `ratio` is the median of those to the first model.

    Of one thread they are processor time, which a busy machine does not stretch, of more the time that passes.
    """

    threads: int
    batch: int
    ms: float
    p95_ms: float
    ratio: float


def latency(reference: Session, quantized: Session, feeds: Feeds) -> Latency:
    """The time of this thread in both sessions."""
    times = _in_turns((reference, quantized), feeds, time.thread_time).mean(2)
    first, second = np.median(times, axis=0) * 1e3
    return Latency(float(first), float(second), float(np.median(times[:, 1] / times[:, 0])))


def timings(paths: Sequence[Path], feeds: Feeds, threads: int) -> list[Timing]:
    """One of each file, in relation to the first; `feeds` is the batch.

    Raises:
        ModelError: a file does not load or run.

    """
    sessions = [Session(path, threads=threads) for path in paths]
    batch = max((len(array) for array in feeds.values() if array.ndim), default=1)
    times = _in_turns(sessions, feeds, time.thread_time if threads == 1 else time.perf_counter)
    ratios = np.median(times.mean(2) / times[:, :1].mean(2), axis=0)
    return [
        Timing(threads, batch, 1e3 * float(np.median(own)), 1e3 * float(np.percentile(own, _RARE)), float(ratio))
        for own, ratio in zip(times.transpose(1, 0, 2).reshape(len(paths), -1), ratios, strict=True)
    ]


def _in_turns(sessions: Sequence[Session], feeds: Feeds, clock: Callable[[], float]) -> NDArray[np.float64]:
    """Seconds of every run, `(rounds, sessions, runs)`."""
    for session in sessions:
        _seconds(session, feeds, _WARM_RUNS, clock)
    turn = sum(float(_seconds(session, feeds, 1, clock)[0]) for session in sessions)
    runs = _runs(turn)
    rounds = max(3, min(_ROUNDS, int(_MOST_SECONDS / max(turn * runs, 1e-9))))
    return np.array([[_seconds(session, feeds, runs, clock) for session in sessions] for _ in range(rounds)])


def _runs(turn_seconds: float) -> int:
    """Runs in a round: enough for the clock with a tiny model, one with a slow one."""
    if turn_seconds * _RUNS * _ROUNDS > _MOST_SECONDS:
        return 1
    return max(_RUNS, min(_MOST_RUNS, int(_LEAST_ROUND_SECONDS / max(turn_seconds, 1e-9))))


def _seconds(session: Session, feeds: Feeds, runs: int, clock: Callable[[], float]) -> NDArray[np.float64]:
    """Seconds of each of some runs."""
    marks = [clock()]
    for _ in range(runs):
        session.run(feeds)
        marks.append(clock())
    return np.diff(marks)
