"""How close a quantized model is to its float reference, and how accurate both are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import scipy.special
from numpy.typing import NDArray

from ptq.errors import DataError, ModelError
from ptq.model.session import Session

_LEAST_NORM = 1e-12
_MOST_VALUES = 1 << 20

Floats = NDArray[np.float64]


class Labelled(Protocol):
    """A batch: arrays by input name, samples first, and their classes `(samples,)` or `(samples, …)` if known."""

    @property
    def feeds(self) -> Mapping[str, np.ndarray]:
        """Arrays by input name."""

    @property
    def labels(self) -> np.ndarray | None:
        """The classes of the samples, or of their positions; negative where there is none."""


@dataclass(frozen=True)
class Accuracy:
    """The first output of the quantized model against the float one's, and both against the labels.

    An output `(samples, classes)` decides once a sample; `(samples, positions, classes)`, as of tokens, and `(samples,
    classes, …)` with two axes and more behind, as of images, decide at every one of `positions`, which are counted over
    all samples. `labelled` counts the decisions with a label.

    Fractions lie in 0..1. `top1` and `top1_float` are None without labels or classes, `agreement` where the output
    is one number. `sqnr_db` is None when the outputs are equal, and, like `cosine`, when a value is not finite:
    `nonfinite` counts those of the quantized model. A decision with a NaN is neither right nor in agreement.
    The perplexities are those of labels by position, and None without such or where they are not finite.
    """

    samples: int
    labelled: int
    top1_float: float | None
    top1: float | None
    agreement: float | None
    sqnr_db: float | None
    cosine: float | None
    nonfinite: int
    positions: int | None = None
    perplexity_float: float | None = None
    perplexity: float | None = None


def check_labels(labels: int | None, output: int | None, title: str) -> None:
    """Check the rank of labels against that of the output they are for, before anything is quantized.

    Raises:
        DataError: they are by position and the output has none, or has them elsewhere.

    """
    if labels is not None and output is not None and labels > 1 and labels != max(output - 1, 1):
        raise DataError(
            f"{title}: labels have {labels} axes, the first output of the model {output}; give one class a sample, or "
            f"one for each position that the output has classes for"
        )


def evaluate(reference: Session, quantized: Session, batches: Iterable[Labelled]) -> Accuracy:
    """Run both models over the batches, whose sizes and lengths may differ, and keep only running sums.

    Raises:
        DataError: there is no sample, or not one label for each sample of a batch.
        ModelError: a model does not run, or the outputs of the two differ in shape.

    """
    sums = _Sums()
    for batch in batches:
        expected = reference.run(batch.feeds, reference.outputs[:1])[0]
        out = quantized.run(batch.feeds, quantized.outputs[:1])[0]
        if expected.shape != out.shape:
            raise ModelError(
                f"output {quantized.outputs[0]!r} has shape {out.shape}, that of the float model {expected.shape}; "
                "the two files are not the same network"
            )
        rows = _rows(expected), _rows(out)
        sums.count(rows[1])
        for part in _parts(rows[0]):
            sums.compare(*(each[part].astype(np.float64) for each in rows))
        decisions = _decisions(expected), _decisions(out)
        if decisions[0].shape[1] > 1:
            sums.agree(*decisions)
            if batch.labels is not None:
                labels = np.asarray(batch.labels)
                if expected.ndim == 2:
                    sums.score(*decisions, labels.reshape(-1))
                elif labels.ndim > 1:
                    sums.score(*decisions, labels.reshape(-1), by_position=True)
    if not sums.samples:
        raise DataError("evaluation needs at least one sample, got none; check the evaluation data")
    return sums.result()


class _Sums:
    """Running sums over samples."""

    def __init__(self) -> None:
        self.samples = self.labelled = self.nonfinite = 0
        self.right_float = self.right = self.agreed = self.comparable = 0
        self.power = self.noise = self.cosine = 0.0
        self.surprise = np.zeros(2)
        self.surprising = 0

    def count(self, out: np.ndarray) -> None:
        """Add the rows of a batch, `(samples, values)`."""
        self.samples += len(out)
        self.nonfinite += int((~np.isfinite(out)).sum())

    def compare(self, expected: Floats, out: Floats) -> None:
        """Add the error of some rows, `(samples, values)`."""
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite ends as None
            self.power += float((expected**2).sum())
            self.noise += float(((expected - out) ** 2).sum())
            norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(out, axis=1)
            products = (expected * out).sum(1) / np.maximum(norms, _LEAST_NORM**2)
        self.cosine += float(np.where((expected == out).all(1), 1.0, products).sum())

    def agree(self, expected: np.ndarray, out: np.ndarray) -> None:
        """Count the decisions that are the same; `(decisions, classes)`."""
        self.comparable += len(out)
        self.agreed += int((_decision(out) == expected.argmax(1)).sum())

    def score(self, expected: np.ndarray, out: np.ndarray, labels: np.ndarray, *, by_position: bool = False) -> None:
        """Count the decisions for the class of their label, and of labels by position the surprise."""
        if len(labels) != len(out):
            per = "position" if by_position else "sample"
            raise DataError(f"a batch of {len(out)} {per}s has {len(labels)} labels; give one label for each {per}")
        known = labels >= 0
        expected, out, labels = expected[known], out[known], labels[known]
        if (labels >= out.shape[1]).any():
            raise DataError(f"label {labels.max()} is none of {out.shape[1]} classes; they are counted from 0")
        self.labelled += len(labels)
        self.right_float += int((_decision(expected) == labels).sum())
        self.right += int((_decision(out) == labels).sum())
        if by_position:
            self.surprising += len(labels)
            self.surprise += [_surprise(expected, labels), _surprise(out, labels)]

    def result(self) -> Accuracy:
        """The figures over all samples."""
        ratio = self.power / self.noise if self.noise else np.inf
        with np.errstate(over="ignore"):
            perplexities = np.exp(self.surprise / self.surprising) if self.surprising else np.full(2, np.nan)
        return Accuracy(
            samples=self.samples,
            labelled=self.labelled,
            top1_float=self.right_float / self.labelled if self.labelled else None,
            top1=self.right / self.labelled if self.labelled else None,
            agreement=self.agreed / self.comparable if self.comparable else None,
            sqnr_db=float(10 * np.log10(ratio)) if np.isfinite(ratio) and ratio > 0 else None,
            cosine=self.cosine / self.samples if np.isfinite(self.cosine) else None,
            nonfinite=self.nonfinite,
            positions=self.comparable or None,
            perplexity_float=_finite(perplexities[0]),
            perplexity=_finite(perplexities[1]),
        )


def _rows(output: np.ndarray) -> np.ndarray:
    """An output as `(samples, values)`."""
    return output.reshape(len(output) if output.ndim else 1, -1)


def _parts(rows: np.ndarray) -> Iterator[slice]:
    """Parts of rows that fit memory in float64: logits of many tokens are large."""
    step = max(1, _MOST_VALUES // max(rows.shape[1], 1))
    yield from (slice(start, start + step) for start in range(0, len(rows), step))


def _decisions(output: np.ndarray) -> np.ndarray:
    """An output as `(decisions, classes)`."""
    if output.ndim < 3:
        return _rows(output)
    classes_last = output if output.ndim == 3 else np.moveaxis(output, 1, -1)
    return classes_last.reshape(-1, classes_last.shape[-1])


def _surprise(rows: np.ndarray, labels: np.ndarray) -> float:
    """The sum of the negative logarithms of the chances of the labels, the rows being logits."""
    total = 0.0
    for part in _parts(rows):
        logits, classes = rows[part].astype(np.float64), labels[part]
        with np.errstate(invalid="ignore"):
            surprises = scipy.special.logsumexp(logits, axis=1) - logits[np.arange(len(logits)), classes]
        total += float(surprises.sum())
    return total


def _finite(number: float) -> float | None:
    return float(number) if np.isfinite(number) else None


def _decision(rows: np.ndarray) -> NDArray[np.intp]:
    """The index of the largest value of each row, -1 where one is NaN."""
    best = rows.argmax(1)  # NaN counts as the largest
    return np.where(np.isnan(rows[np.arange(len(rows)), best]), -1, best)
