"""Scores by labels: each a sum over batches, so that no output is kept."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from types import MappingProxyType
from typing import Final, Protocol

import numpy as np
from numpy.typing import NDArray

from ptq.errors import DataError, OptionError, suggest
from ptq.evaluate.accuracy import Sense
from ptq.evaluate.custom import Custom
from ptq.evaluate.rows import decision, log_chances, log_of, parts


class Kind(Enum):
    """What labels are."""

    CLASSES = "classes of samples"
    POSITIONS = "classes of positions"
    VALUES = "numbers"


class Tally(Protocol):
    """What is kept of the batches seen."""

    def add(self, output: np.ndarray, labels: np.ndarray) -> None:
        """Add decisions `(decisions, classes)` with their classes, or of `VALUES` two arrays of one shape."""

    def result(self) -> float | None:
        """The score; it need not be finite, and is None where nothing was added."""


class Top:
    """The fraction of labels that are among the `count` largest values."""

    def __init__(self, count: int) -> None:
        self._count, self._right, self._seen = count, 0, 0

    def add(self, output: np.ndarray, labels: np.ndarray) -> None:
        """Count."""
        self._seen += len(labels)
        best = decision(output)
        if self._count == 1:
            self._right += int((best == labels).sum())
            return
        for part in parts(output):
            rows, of = output[part], labels[part]
            higher = (rows > rows[np.arange(len(rows)), of][:, None]).sum(1)
            self._right += int(((higher < self._count) & (best[part] >= 0)).sum())

    def result(self) -> float | None:
        """The fraction."""
        return self._right / self._seen if self._seen else None


class F1:
    """The mean over classes, those that are a label or a decision, of the harmonic mean of precision and recall."""

    def __init__(self) -> None:
        self._hits: NDArray[np.int64] = np.zeros(0, np.int64)
        self._of = self._hits

    def add(self, output: np.ndarray, labels: np.ndarray) -> None:
        """Count."""
        classes, best = output.shape[1], decision(output)
        hits = np.bincount(labels[best == labels], minlength=classes)
        of = np.bincount(labels, minlength=classes) + np.bincount(best[best >= 0], minlength=classes)
        self._hits, self._of = (self._hits + hits, self._of + of) if self._of.size else (hits, of)

    def result(self) -> float | None:
        """The mean."""
        there = self._of > 0
        return float((2 * self._hits[there] / self._of[there]).mean()) if there.any() else None


class Perplexity:
    """The exponential of the mean negative logarithm of the chances of the labels."""

    def __init__(self, chances: bool) -> None:  # noqa: FBT001  (whether the outputs are these)
        self._chances, self._surprise, self._seen = chances, 0.0, 0

    def add(self, output: np.ndarray, labels: np.ndarray) -> None:
        """Sum the logarithms."""
        self._seen += len(labels)
        for part in parts(output):
            rows, of = output[part], labels[part]
            self._surprise -= float(log_chances(log_of(rows) if self._chances else rows, of).sum())

    def result(self) -> float | None:
        """The perplexity."""
        with np.errstate(over="ignore"):
            return float(np.exp(self._surprise / self._seen)) if self._seen else None


class MeanError:
    """The mean of a power of the errors of all values, and the root of it."""

    def __init__(self, power: int) -> None:
        self._power, self._sum, self._seen = power, 0.0, 0

    def add(self, output: np.ndarray, labels: np.ndarray) -> None:
        """Sum."""
        with np.errstate(invalid="ignore", over="ignore"):
            self._sum += float((np.abs(output.astype(np.float64) - labels) ** self._power).sum())
        self._seen += labels.size

    def result(self) -> float | None:
        """The mean error."""
        return (self._sum / self._seen) ** (1 / self._power) if self._seen else None


@dataclass(frozen=True)
class Metric:
    """A score by name, the labels it is for, and from how many classes to how many it is worth a look unasked."""

    name: str
    kinds: frozenset[Kind]
    make: Callable[[bool], Tally]
    """Of whether the outputs are chances, and not logits."""
    sense: Sense = Sense.FRACTION
    decides: bool = True
    least_classes: int = 0
    most_classes: int = sys.maxsize
    raw: bool = False
    """Whether it takes outputs and labels as they come, and not by decision."""


_ANY_CLASSES: Final = frozenset({Kind.CLASSES, Kind.POSITIONS})

METRICS: Final[Mapping[str, Metric]] = MappingProxyType({
    metric.name: metric
    for metric in (
        Metric("top-1", _ANY_CLASSES, lambda _: Top(1)),
        Metric("top-5", _ANY_CLASSES, lambda _: Top(5), decides=False, least_classes=10),
        Metric("f1", _ANY_CLASSES, lambda _: F1(), decides=False, most_classes=100),
        Metric("perplexity", frozenset({Kind.POSITIONS}), Perplexity, Sense.LESS),
        Metric("rmse", frozenset({Kind.VALUES}), lambda _: MeanError(2), Sense.LESS),
        Metric("mae", frozenset({Kind.VALUES}), lambda _: MeanError(1), Sense.LESS, decides=False),
    )
})  # fmt: skip


def check_metrics(names: Sequence[str]) -> None:
    """Check names of metrics, each of `METRICS` or `module:callable`.

    Raises:
        OptionError: there is none of that name, or nothing to import.

    """
    for name in names:
        if name in METRICS:
            continue
        if ":" not in name:
            raise OptionError(f"unknown --metric {name!r}; {suggest(name, METRICS)}, or give module:callable")
        Custom.of(name)


def metrics_for(kind: Kind, classes: int, wanted: Sequence[str]) -> list[Metric]:
    """Those that are wanted, all of which decide, or else what there is for such labels.

    Raises:
        DataError: one that is wanted is not for such labels.

    """
    if not wanted:
        fit = (each for each in METRICS.values() if kind in each.kinds)
        return [each for each in fit if each.least_classes <= classes <= each.most_classes]
    found = []
    for name in wanted:
        metric = METRICS.get(name) or _own(name)
        if kind not in metric.kinds:
            known = ", ".join(each.name for each in METRICS.values() if kind in each.kinds)
            raise DataError(f"--metric {name} is not for labels that are {kind.value}; give {known}")
        found.append(replace(metric, decides=True))
    return found


def _own(name: str) -> Metric:
    custom = Custom.of(name)
    return Metric(
        name,
        frozenset(Kind),
        lambda _: custom.tally(),
        Sense.MORE if custom.greater_is_better else Sense.LESS,
        raw=True,
    )
