"""Any number of quantized files beside the float model, as data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from ptq.audit import Timing
from ptq.evaluate import Accuracy, Sense
from ptq.report.pareto import LEAST_FRONT, knee
from ptq.report.portability import Portability

SCHEMA = 1


@dataclass(frozen=True)
class ComparedFile:
    """A file, and what was measured of it; of one with a `failure`, nothing was.

    `bits_per_weight` are those of all that it stores, for each number of the float model. `kernels` counts the nodes
    that compute with weights, `integer` those of them in int8, `decoded` those that decode their weight at every call;
    `others` compute with activations alone. The float model itself has no `accuracy`.
    """

    path: str
    sha256: str | None = None
    bytes: int = 0
    bits_per_weight: float | None = None
    load_seconds: float | None = None
    peak_bytes: int | None = None
    kernels: Mapping[str, int] = field(default_factory=dict)
    integer: int = 0
    decoded: int = 0
    others: Mapping[str, int] = field(default_factory=dict)
    timings: tuple[Timing, ...] = ()
    accuracy: Accuracy | None = None
    portability: Portability | None = None
    """None where no product is computed in int8, or the graph could not be run in pieces."""
    failure: str | None = None
    warnings: tuple[str, ...] = ()

    @property
    def layers(self) -> int:
        """How many nodes compute with weights."""
        return sum(self.kernels.values())

    @property
    def verdict(self) -> str:
        """FAIL where it does not run as the float model does, else WARNING or PASS."""
        return "FAIL" if self.failure else "WARNING" if self.warnings else "PASS"


@dataclass(frozen=True)
class Gain:
    """What bytes and time are spent for, of files by their paths and of the float model; `rising` if more is better."""

    title: str
    of: Mapping[str, float | None]
    reference: float | None = None
    rising: bool = True
    step: float | None = None
    """What one sample is worth, where it is a part of them: smaller differences are noise."""


@dataclass(frozen=True)
class Comparison:
    """The float model and the files beside it, in the order given; `max_drop` is what was accepted of a loss."""

    reference: ComparedFile
    files: tuple[ComparedFile, ...]
    data: str
    max_drop: float
    versions: Mapping[str, str]
    machine: str
    notes: tuple[str, ...] = ()
    schema: int = SCHEMA

    @property
    def gain(self) -> Gain | None:
        """The first score that decides, or without labels the SQNR of the output; None where nothing ran."""
        ran = {file.path: file.accuracy for file in self.files if file.accuracy is not None}
        first = next(iter(ran.values()), None)
        if first is None:
            return None
        score = next((score for score in first.scores if score.decides), None)
        if score is None:
            return self.closeness
        percent = score.sense == Sense.FRACTION.value
        factor = 100 if percent else 1

        def scaled(value: float | None) -> float | None:
            return None if value is None else factor * value

        values = {path: scaled(own.value) for path, each in ran.items() if (own := each.score(score.name)) is not None}
        title = f"{score.name} in %" if percent else score.name
        step = 100 / first.labelled if percent and first.labelled else None
        return Gain(title, values, scaled(score.reference), score.sense != Sense.LESS.value, step)

    @property
    def closeness(self) -> Gain:
        """The SQNR of the output, which moves less by chance than scores of few samples."""
        return Gain(
            "SQNR in dB", {each.path: each.accuracy.sqnr_db for each in self.files if each.accuracy is not None}
        )

    @property
    def knee_by_size(self) -> ComparedFile | None:
        """From where on more bytes bring less closeness; None where the front has no bend."""
        return self._knee(lambda file: float(file.bytes))

    @property
    def knee_by_latency(self) -> ComparedFile | None:
        """From where on more time brings less, by the first timing."""
        return self._knee(lambda file: file.timings[0].ratio if file.timings else None)

    def _knee(self, cost: Callable[[ComparedFile], float | None]) -> ComparedFile | None:
        """Among those that pass, or among all where few do. By closeness: scores of few samples are stairs."""
        passed = self.passed
        placed = [
            (file, (at, value))
            for file in (passed if len(passed) >= LEAST_FRONT else self.files)
            if (at := cost(file)) is not None and (value := self.closeness.of.get(file.path)) is not None
        ]
        index = knee([place for _, place in placed])
        return None if index is None else placed[index][0]

    @property
    def passed(self) -> tuple[ComparedFile, ...]:
        """Those of which there is nothing to warn."""
        return tuple(file for file in self.files if file.verdict == "PASS")

    @property
    def failed(self) -> tuple[ComparedFile, ...]:
        """Those that do not run as the float model does."""
        return tuple(file for file in self.files if file.failure)

    @property
    def smallest(self) -> ComparedFile | None:
        """The smallest of those that pass."""
        return min(self.passed, key=lambda file: file.bytes, default=None)

    @property
    def fastest(self) -> ComparedFile | None:
        """The fastest of those that pass, by the first timing."""
        timed = [file for file in self.passed if file.timings]
        return min(timed, key=lambda file: file.timings[0].ratio, default=None)
