"""Check, load, look up, compare and measure a written file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from ptq.audit.costs import Cost, file_bytes, load, peak_bytes, session_bytes
from ptq.audit.graphs import optimized_graph
from ptq.audit.kernels import Kernel, find_kernels
from ptq.audit.timing import Latency, latency
from ptq.errors import AuditError, ModelError
from ptq.lowering import Checks
from ptq.model.session import Session

_SAMPLES = 4

Feeds = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Audit:
    """What a written file is and does, against the file it was made from.

    `parity_db` is the signal-to-noise ratio of its outputs at full optimization against optimization disabled: None
    when they are equal. It, `latency` and the memory are None too when there was no data to run on, and all but
    the bytes is None or empty when the file is only checked as written. `absent` says which files were not loaded for
    want of memory, and how much they take.
    """

    kernels: Mapping[str, Kernel]
    parity_db: float | None
    latency: Latency | None
    reference: Cost
    quantized: Cost
    absent: Mapping[Path, str] = field(default_factory=dict)

    @property
    def integer_sites(self) -> int:
        """How many sites compute in integers."""
        return sum(kernel.integer for kernel in self.kernels.values())


def audit(
    reference: Path,
    quantized: Path,
    feeds: Sequence[Feeds],
    checks: Checks = Checks.OPTIMIZED,
    room: int | None = None,
) -> Audit:
    """Audit a quantized file as written, against the float file; a few samples of `feeds` are run.

    What takes more than the bytes of memory in `room` is not loaded: the quantized file, which is as written and
    optimized at once, or the float one beside that.

    Raises:
        AuditError: the quantized file does not check, load or run.

    """
    absent = {} if room is None else _absent(reference, quantized, room)
    if quantized in absent:
        return Audit({}, None, None, _size(reference), _size(quantized), absent)
    _check(quantized, inferred=None if reference in absent else _checked(reference))
    if checks is Checks.AS_WRITTEN:
        _run_as_written(quantized, feeds)
        return Audit({}, None, None, _size(reference), _size(quantized))
    kernels = kernels_of(quantized)
    float_session, float_seconds = (None, None) if reference in absent else load(reference)
    session, seconds = load(quantized)
    fixed = session.batch or (None if float_session is None else float_session.batch)
    one = next(_samples(feeds, 1, fixed), None)
    try:
        parity = _parity(quantized, session, float_session, feeds)
        speed = None if one is None or float_session is None else latency(float_session, session, one)
    except ModelError as error:
        raise AuditError(f"{quantized}: {error}") from error
    del float_session, session
    peaks = {path: peak_bytes(path, one) for path in (reference, quantized) if one is not None and path not in absent}
    return Audit(
        kernels,
        parity,
        speed,
        Cost(file_bytes(reference), float_seconds, peaks.get(reference)),
        Cost(file_bytes(quantized), seconds, peaks.get(quantized)),
        absent,
    )


def _size(path: Path) -> Cost:
    return Cost(file_bytes(path), None, None)


def _absent(reference: Path, quantized: Path, room: int) -> dict[Path, str]:
    """The file that does not fit, and how much is missing."""
    own = 2 * session_bytes(quantized)
    both = own + session_bytes(reference)
    for path, needed, what in ((quantized, own, "it takes"), (reference, both, "beside the quantized one it takes")):
        if needed > room:
            return {path: f"{what} about {needed / 1e9:.2g} GB of memory, {room / 1e9:.2g} GB are free"}
    return {}


def _checked(reference: Path) -> bool | None:
    """Whether the checker infers the shapes of a float model; None where it does not take it even without.

    It infers none where a shape that is declared does not follow from the inputs, and for some models with types that
    it does not know; it does not take one whose inputs and outputs have no shapes. ONNX Runtime, which judges next,
    takes all of them.
    """
    for inferred in (True, False):
        try:
            onnx.checker.check_model(str(reference), full_check=inferred)
        except Exception:  # noqa: BLE001, S112  (see below)
            continue
        return inferred
    return None


def _check(path: Path, *, inferred: bool | None) -> None:
    if inferred is None:
        return
    try:
        onnx.checker.check_model(str(path), full_check=inferred)
    except Exception as error:  # the checker's, shape inference's and protobuf's errors share no base class
        said = " ".join(str(error).split())[:300]
        raise AuditError(f"{path} is not a valid ONNX model: {said}") from error


def _run_as_written(path: Path, feeds: Sequence[Feeds]) -> None:
    """Load without optimization, and run one sample."""
    try:
        session = Session(path, optimize=False)
        for batch in _samples(feeds, 1, session.batch):
            session.run(batch)
    except ModelError as error:
        raise AuditError(f"{path}, run as written: {error}") from error


def kernels_of(path: Path) -> dict[str, Kernel]:
    """The kernel of every site of a file with marks.

    Raises:
        AuditError: the file does not load.

    """
    written = onnx.load(path, format="protobuf", load_external_data=False).graph
    return find_kernels(written, optimized_graph(path))


def _parity(path: Path, session: Session, reference: Session | None, feeds: Sequence[Feeds]) -> float | None:
    """The lowest signal-to-noise ratio of the outputs, optimized against as written."""
    plain = Session(path, optimize=False)
    signal, noise = np.zeros(len(session.outputs)), np.zeros(len(session.outputs))
    for batch in _samples(feeds, _SAMPLES, session.batch):
        if reference is not None:
            _check_finite(path, session, reference, batch)
        for k, (good, out) in enumerate(zip(plain.run(batch), session.run(batch), strict=True)):
            if good.shape != out.shape:
                shapes = f"{list(out.shape)} when optimized and {list(good.shape)} as written"
                raise AuditError(f"{path}: output {session.outputs[k]!r} is {shapes}; leave its layer in float")
            same = (good == out) | (np.isnan(good) & np.isnan(out))
            difference = good[~same].astype(np.float64) - out[~same].astype(np.float64)
            if not np.isfinite(difference).all():
                raise AuditError(f"{path}: output {session.outputs[k]!r} is not finite at one optimization level only")
            signal[k] += float((good[np.isfinite(good)].astype(np.float64) ** 2).sum())
            noise[k] += float((difference**2).sum())
    differing = noise > 0
    if not differing.any():
        return None
    ratios = np.maximum(signal[differing], np.finfo(np.float64).tiny) / noise[differing]
    return float(10 * np.log10(ratios).min())


def check_runs(reference: Path, quantized: Path, feeds: Feeds) -> None:
    """Run a quantized file on numbers that are no data; what they come to does not matter, if it is finite.

    Raises:
        ModelError: the float file does not run on them.
        AuditError: the quantized file does not, or gives numbers that are not finite where those of the float one are.

    """
    float_session = Session(reference)
    float_session.run(feeds)
    try:
        _check_finite(quantized, Session(quantized), float_session, feeds, skipped=0)
    except ModelError as error:
        raise AuditError(f"{quantized}: {error}") from error


def _check_finite(path: Path, session: Session, reference: Session, feeds: Feeds, skipped: int = 1) -> None:
    """Check the outputs behind the first ones, which are evaluated."""
    names = [name for name in session.outputs[skipped:] if name in reference.outputs]
    if names:
        for name, good, out in zip(names, reference.run(feeds, names), session.run(feeds, names), strict=True):
            if np.isfinite(good).all() and not np.isfinite(out).all():
                raise AuditError(f"{path}: output {name!r} is not finite, and that of the float model is")


def _samples(feeds: Sequence[Feeds], most: int, fixed: int | None) -> Iterator[Feeds]:
    """The first samples, in batches as given; a graph with a fixed batch size gets one whole batch."""
    left = most
    for batch in feeds:
        if left <= 0:
            return
        count = max((len(array) for array in batch.values() if array.ndim), default=1)
        if fixed is not None:
            yield batch
        else:
            yield {name: array[:left] if array.ndim else array for name, array in batch.items()}
        left -= count
