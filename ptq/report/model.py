"""What is reported, as data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ptq.evaluate import Accuracy
from ptq.report.distribution import ActivationReport, Distribution
from ptq.report.portability import Portability
from ptq.report.trials import Trials

SCHEMA = 3


@dataclass(frozen=True)
class LayerReport:
    """One site: how it is stored, and how it runs.

    `points` has the number of rows with 1, 2, … points, `mixes` those of each sum of formats, such as "int4+int2".
    """

    site: str
    op: str
    shape: tuple[int, ...]
    format: str
    points: tuple[int, ...]
    mixes: Mapping[str, int]
    bits_per_weight: float
    bytes: int
    weight_sqnr_db: float | None
    output_sqnr_db: float | None
    execution: str
    kernel: str | None
    integer: bool
    note: str | None = None
    method: str | None = None
    """None where it stays float."""
    rule: str | None = None
    """What was said of it apart from the other layers."""
    numbers: Distribution | None = None
    """Its weights in units of the first scale of their row; the grid is all that they became."""
    points_map: tuple[float, ...] = ()
    """The mean number of points along its rows, in up to 64 parts; empty where all have one."""

    @property
    def computes(self) -> bool:
        """Whether it multiplies; of a table, rows are only taken."""
        return self.execution != "lookup"


@dataclass(frozen=True)
class SourceReport:
    """The model that came in."""

    path: str | None
    kind: str
    sites: int
    weights: int
    sha256: str | None


@dataclass(frozen=True)
class FileReport:
    """The file against that of the float model."""

    float_bytes: int
    bytes: int
    float_load_seconds: float | None
    load_seconds: float | None
    float_peak_bytes: int | None
    peak_bytes: int | None
    float_ms: float | None
    ms: float | None
    latency_ratio: float | None
    parity_db: float | None


@dataclass(frozen=True)
class Report:
    """Everything about a run.

    `elsewhere` names what the file is for, where that is not a processor of this kind: its speed was not measured.
    """

    source: SourceReport
    output: str | None
    options: Mapping[str, Any]
    versions: Mapping[str, str]
    data: str | None
    evaluation: str | None
    layers: tuple[LayerReport, ...]
    bits_per_weight: float
    accuracy: Accuracy | None
    file: FileReport
    stages: Mapping[str, float]
    notes: tuple[str, ...]
    warnings: tuple[str, ...]
    data_sha256: str | None = None
    """That of names, shapes and numbers of the calibration data."""
    elsewhere: str | None = None
    title: str = ""
    """What was done, in a few words."""
    activations: tuple[ActivationReport, ...] = ()
    """What quantized layers compute with, in the order in which it is made; empty without data."""
    portability: Portability | None = None
    """None where no product is computed in int8, or there was nothing to run on."""
    unloaded: str | None = None
    """Why it was not loaded, None where it was: then nothing is known of its kernels."""
    trials: Trials | None = None
    """Where the recipe was chosen among several: what they came to."""
    schema: int = SCHEMA

    @property
    def passed(self) -> bool:
        """Whether nothing is to be warned of, all that matters having been measured."""
        return not self.warnings and self.untimed is None

    @property
    def untimed(self) -> str | None:
        """Why its speed was not measured, None where it was."""
        if self.elsewhere is not None:
            return f"for {self.elsewhere}"
        if self.unloaded is not None:
            return "not loaded"
        return "no data to run on" if self.file.latency_ratio is None else None

    @property
    def verdict(self) -> str:
        """PASS, WARNING, or NOT TIMED where there is nothing to warn of in what could be measured."""
        return "WARNING" if self.warnings else "PASS" if self.passed else "NOT TIMED"

    @property
    def quantized(self) -> tuple[LayerReport, ...]:
        """The layers that are not left in float."""
        return tuple(layer for layer in self.layers if layer.execution != "float")

    @property
    def computing(self) -> tuple[LayerReport, ...]:
        """The layers that multiply."""
        return tuple(layer for layer in self.layers if layer.computes)

    @property
    def mixes(self) -> Mapping[str, int]:
        """Rows of all layers of each sum of formats, the most frequent first."""
        return dict(sum((Counter(layer.mixes) for layer in self.layers), Counter[str]()).most_common())

    @property
    def kernels(self) -> Mapping[str, int]:
        """How many layers run in each kernel."""
        return dict(Counter(layer.kernel or "unknown" for layer in self.layers).most_common())
