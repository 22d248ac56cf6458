"""What a file costs: bytes on disk, time to load, memory."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from ptq.disk import passing
from ptq.errors import AuditError
from ptq.model.session import Session
from ptq.model.wire import data_files, decoded_numbers

_FLOATS = frozenset({
    onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE
})  # fmt: skip
_SESSION = 1 << 26
_SCRIPT = Path(__file__).with_name("memory.py")


@dataclass(frozen=True)
class Cost:
    """Bytes with external data, the time to load, and, where there was data to run, the peak of memory over it.

    Of a file that is only checked as written there are the bytes alone.
    """

    file_bytes: int
    load_seconds: float | None
    peak_bytes: int | None


def file_bytes(path: Path) -> int:
    """The size of a model file with the files of its external data, each counted once."""
    try:
        others = data_files(path)
    except ValueError:  # what it is, if no model, is for others to say
        others = frozenset()
    return path.stat().st_size + sum(file.stat().st_size for file in others)


def session_bytes(path: Path) -> int:
    """What a session of a file takes at most: its weights, those decoded, and once more as kernels want them."""
    try:
        decoded = decoded_numbers(path)
    except ValueError:  # as above
        decoded = 0
    return 2 * file_bytes(path) + 4 * decoded + _SESSION


def tensor_bits(path: Path) -> int:
    """The bits of all tensors that a model stores, external data included, without the graph around them."""
    model = onnx.load(path, format="protobuf", load_external_data=False)
    return sum(math.prod(tensor.dims) * _bits(tensor.data_type) for tensor in _tensors(model.graph))


def float_numbers(path: Path) -> int:
    """How many floating-point numbers a model stores."""
    model = onnx.load(path, format="protobuf", load_external_data=False)
    return sum(math.prod(tensor.dims) for tensor in _tensors(model.graph) if tensor.data_type in _FLOATS)


def _bits(data_type: int) -> int:
    """The bits of a number; of strings, whose size varies, none."""
    if data_type == onnx.TensorProto.STRING:
        return 0
    return ir.DataType(data_type).bitwidth


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
    first = _load(path)[1]  # whose session is gone before there is another
    session, seconds = _load(path)
    return session, min(first, seconds)


def _load(path: Path) -> tuple[Session, float]:
    start = time.perf_counter()
    session = Session(path)
    return session, time.perf_counter() - start


def peak_bytes(path: Path, feeds: Mapping[str, np.ndarray]) -> int:
    """How much loading a file and running it once adds to the peak memory of a fresh process.

    Raises:
        AuditError: the process fails.

    """
    with passing() as folder:
        data = folder / "feeds.npz"
        np.savez(data, **{f"feed:{name}": array for name, array in feeds.items()})  # type: ignore[arg-type]
        # as a file, not as a module of this package: its parent packages would import torch and hide the peak
        command = [sys.executable, "-P", str(_SCRIPT), str(path), str(data)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise AuditError(f"measuring the memory of {path} failed with exit code {done.returncode}: {said[:300]}")
    return int(done.stdout)
