"""Any number of quantized files beside the float model, as data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from ptq.audit import Timing
from ptq.evaluate import Accuracy, Sense

SCHEMA = 1


@dataclass(frozen=True)
class Portability:
    """The first output on processors without VNNI, simulated on so many samples, and here on the same ones.

    `stopped` is the part of the sums of two int8 products that end at the limits of 16 bits there.
    """

    samples: int
    sqnr_db: float | None
    here_db: float | None
    agreement: float | None
    here_agreement: float | None
    nonfinite: int
    stopped: float

    @property
    def lost_db(self) -> float:
        """By how much the signal-to-noise ratio is lower than here."""
        if self.here_db is None or self.sqnr_db is None:
            return 0.0 if self.sqnr_db == self.here_db else math.inf
        return max(self.here_db - self.sqnr_db, 0.0)


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
