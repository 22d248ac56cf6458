"""What a file costs: bytes on disk, time to load, time to run, memory."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from ptq.errors import AuditError
from ptq.model.session import Session

_ROUNDS, _RUNS, _WARM_RUNS = 12, 3, 2
_LEAST_ROUND_SECONDS, _MOST_SECONDS = 0.01, 10.0
_MOST_RUNS = 1000
_SCRIPT = Path(__file__).with_name("memory.py")


@dataclass(frozen=True)
class Cost:
    """Bytes with external data, the time to load, and, where there was data to run, the peak of memory over it.

    Of a file that is only checked as written there are the bytes alone.
    """

    file_bytes: int
    load_seconds: float | None
    peak_bytes: int | None


@dataclass(frozen=True)
class Latency:
    """Milliseconds of a run of one sample, medians over rounds, and the median of the ratios of the rounds."""

    reference_ms: float
    quantized_ms: float
    ratio: float


def file_bytes(path: Path) -> int:
    """The size of a model file with the files of its external data, each counted once."""
    model = onnx.load(path, format="protobuf", load_external_data=False)
    entries = (entry for tensor in _tensors(model.graph) for entry in tensor.external_data)
    files: set[Path] = {path.parent / entry.value for entry in entries if entry.key == "location"}
    return path.stat().st_size + sum(file.stat().st_size for file in files)


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """All tensors that a graph stores, those of constants and subgraphs included."""
    yield from graph.initializer
    for attribute in (attribute for node in graph.node for attribute in node.attribute):
        if attribute.HasField("t"):
            yield attribute.t
        yield from attribute.tensors
        for body in [*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs]:
            yield from _tensors(body)


def load(path: Path) -> tuple[Session, float]:
    """A session as users get it, and the seconds that it took: the better of two, as the first one reads the disk."""
    return min((_load(path) for _ in range(2)), key=lambda loaded: loaded[1])


def _load(path: Path) -> tuple[Session, float]:
    start = time.perf_counter()
    session = Session(path)
    return session, time.perf_counter() - start


def latency(reference: Session, quantized: Session, feeds: Mapping[str, np.ndarray]) -> Latency:
    """The time of this thread in both sessions, interleaved so that both see the same neighbours."""
    sessions = (reference, quantized)
    for session in sessions:
        _seconds(session, feeds, _WARM_RUNS)
    pair = sum(_seconds(session, feeds, 1) for session in sessions)
    runs = _runs(pair)
    rounds = max(3, min(_ROUNDS, int(_MOST_SECONDS / max(pair * runs, 1e-9))))
    times = np.array([[_seconds(session, feeds, runs) / runs for session in sessions] for _ in range(rounds)])
    first, second = np.median(times, axis=0) * 1e3
    return Latency(float(first), float(second), float(np.median(times[:, 1] / times[:, 0])))


def _runs(pair_seconds: float) -> int:
    """Runs in a round: enough for the clock with a tiny model, one with a slow one."""
    if pair_seconds * _RUNS * _ROUNDS > _MOST_SECONDS:
        return 1
    return max(_RUNS, min(_MOST_RUNS, int(_LEAST_ROUND_SECONDS / max(pair_seconds, 1e-9))))


def _seconds(session: Session, feeds: Mapping[str, np.ndarray], runs: int) -> float:
    """Processor seconds of this thread, which a busy machine does not stretch."""
    start = time.thread_time()
    for _ in range(runs):
        session.run(feeds)
    return time.thread_time() - start


def peak_bytes(path: Path, feeds: Mapping[str, np.ndarray]) -> int:
    """How much loading a file and running it once adds to the peak memory of a fresh process.

    Raises:
        AuditError: the process fails.

    """
    with tempfile.TemporaryDirectory(prefix="ptq-") as folder:
        data = Path(folder) / "feeds.npz"
        np.savez(data, **{f"feed:{name}": array for name, array in feeds.items()})  # type: ignore[arg-type]
        # as a file, not as a module of this package: its parent packages would import torch and hide the peak
        command = [sys.executable, "-P", str(_SCRIPT), str(path), str(data)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise AuditError(f"measuring the memory of {path} failed with exit code {done.returncode}: {said[:300]}")
    return int(done.stdout)
