"""How close quantized models are to their float reference, and how accurate all are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ptq.errors import DataError, ModelError
from ptq.evaluate.accuracy import Accuracy, Score
from ptq.evaluate.closeness import Closeness
from ptq.evaluate.metrics import Kind, Metric, Tally, metrics_for
from ptq.evaluate.rows import are_chances, decisions


class Labelled(Protocol):
    """A batch: arrays by input name, samples first, and their labels if known: classes `(samples,)` or `(samples, …)`.

    Labels of floats are the numbers that the output should be.
    """

    @property
    def feeds(self) -> Mapping[str, np.ndarray]:
        """Arrays by input name."""

    @property
    def labels(self) -> np.ndarray | None:
        """The labels of the samples, or of their positions; classes are negative where there is none."""


class Model(Protocol):
    """What is evaluated: a session, or what answers like one."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of its outputs."""

    def run(self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> list[np.ndarray]:
        """Some outputs for one batch, or all."""


class Header(Protocol):
    """What is known of labels without their numbers."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of floats, they are the numbers that the output should be."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Samples first."""


def check_labels(labels: Header | None, output: Sequence[object] | None, title: str) -> None:
    """Check the shape of labels against that of the output they are for, before anything is quantized.

    Raises:
        DataError: they are by position and the output has none, or has them elsewhere.

    """
    if labels is None or output is None:
        return
    rank, wanted = len(labels.shape), len(output)
    if labels.dtype.kind == "f":
        if rank not in {wanted, wanted - (output[-1:] == (1,))}:
            raise DataError(
                f"{title}: labels of floats have {rank} axes, the first output of the model {wanted}; give the numbers "
                f"that the output should be"
            )
    elif rank > 1 and rank != max(wanted - 1, 1):
        raise DataError(
            f"{title}: labels have {rank} axes, the first output of the model {wanted}; give one class a sample, or "
            f"one for each position that the output has classes for"
        )


def evaluate(reference: Model, quantized: Model, batches: Iterable[Labelled], metrics: Sequence[str] = ()) -> Accuracy:
    """Evaluate one model as `evaluate_all` does several."""
    return evaluate_all(reference, [quantized], batches, metrics)[0]


def evaluate_all(
    reference: Model, quantized: Sequence[Model], batches: Iterable[Labelled], metrics: Sequence[str] = ()
) -> list[Accuracy]:
    """Run all models over the batches, whose sizes and lengths may differ, and keep only running sums.

    `metrics` are those of `METRICS`, or `module:callable`; left out, what there is for such labels.

    Raises:
        DataError: there is no sample with an output, or not one label for each sample of a batch, or a metric is not
            for such labels.
        ModelError: a model does not run, or its output differs in shape from that of the float model.

    """
    closeness, scores = [Closeness() for _ in quantized], _Scores(len(quantized) + 1, metrics)
    samples = 0
    for batch in batches:
        expected = reference.run(batch.feeds, reference.outputs[:1])[0]
        outputs = [session.run(batch.feeds, session.outputs[:1])[0] for session in quantized]
        for session, out in zip(quantized, outputs, strict=True):
            if expected.shape != out.shape:
                raise ModelError(
                    f"output {session.outputs[0]!r} has shape {out.shape}, that of the float model {expected.shape}; "
                    "the two files are not the same network"
                )
        if not expected.size:  # as of a detector that finds nothing
            continue
        samples += len(expected) if expected.ndim else 1
        for out, close in zip(outputs, closeness, strict=True):
            close.add(expected, out)
        if batch.labels is not None:
            scores.add([expected, *outputs], np.asarray(batch.labels))
    if not samples:
        raise DataError("evaluation needs at least one sample with an output, got none; check the evaluation data")
    return [
        Accuracy(samples=samples, labelled=scores.labelled, scores=scores.result(number), **close.result())
        for number, close in enumerate(closeness, 1)
    ]


@dataclass
class _Scores:
    """The scores of several models, the first of which is the float one."""

    models: int
    wanted: Sequence[str]
    labelled: int = 0
    kind: Kind | None = None
    metrics: Sequence[Metric] = ()
    tallies: Sequence[Sequence[Tally]] = ()

    def add(self, outputs: Sequence[np.ndarray], labels: np.ndarray) -> None:
        """Add the outputs of all models for a batch."""
        kind = _kind(outputs[0], labels)
        if kind is None:
            return
        if self.kind is None:
            rows = decisions(outputs[0])
            self.kind, self.metrics = kind, metrics_for(kind, rows.shape[1], self.wanted)
            chances = are_chances(rows)
            self.tallies = [[metric.make(chances) for metric in self.metrics] for _ in range(self.models)]
        elif kind is not self.kind:
            raise DataError(f"labels are {self.kind.value} in one batch and {kind.value} in another; give one kind")
        taken = [
            _values(output, labels) if kind is Kind.VALUES else _classes(output, labels, kind) for output in outputs
        ]
        self.labelled += len(taken[0][1])
        for tallies, output, decided in zip(self.tallies, outputs, taken, strict=True):
            for metric, tally in zip(self.metrics, tallies, strict=True):
                tally.add(*((output, labels) if metric.raw else decided))

    def result(self, model: int) -> tuple[Score, ...]:
        """The scores of one model beside those of the float one."""
        return (
            tuple(
                Score(metric.name, _finite(first.result()), _finite(own.result()), metric.sense.value, metric.decides)
                for metric, first, own in zip(self.metrics, self.tallies[0], self.tallies[model], strict=True)
            )
            if self.tallies
            else ()
        )


def _kind(output: np.ndarray, labels: np.ndarray) -> Kind | None:
    """What labels are; None where the output has nothing that they could be of."""
    if labels.dtype.kind == "f":
        return Kind.VALUES
    if decisions(output).shape[1] < 2:
        return None
    if output.ndim == 2:
        return Kind.CLASSES
    return Kind.POSITIONS if labels.ndim > 1 else None


def _values(output: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An output and the numbers it should be, in one shape."""
    if output.size != labels.size or len(output) != len(labels):
        raise DataError(
            f"labels of floats have shape {labels.shape}, the output {output.shape}; give the numbers that it should be"
        )
    return output, labels.reshape(output.shape)


def _classes(output: np.ndarray, labels: np.ndarray, kind: Kind) -> tuple[np.ndarray, np.ndarray]:
    """The decisions that have a label, and these."""
    rows, flat = decisions(output), labels.reshape(-1)
    if len(flat) != len(rows):
        per = "position" if kind is Kind.POSITIONS else "sample"
        raise DataError(f"a batch of {len(rows)} {per}s has {len(flat)} labels; give one label for each {per}")
    known = flat >= 0
    rows, flat = rows[known], flat[known].astype(np.int64)
    if (flat >= rows.shape[1]).any():
        raise DataError(f"label {flat.max()} is none of {rows.shape[1]} classes; they are counted from 0")
    return rows, flat


def _finite(number: float | None) -> float | None:
    return float(number) if number is not None and np.isfinite(number) else None
