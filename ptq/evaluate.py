"""How close a quantized model is to its float reference, and how accurate both are."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ptq.errors import DataError, ModelError
from ptq.model.session import Session

_LEAST_NORM = 1e-12

Floats = NDArray[np.float64]


class Labelled(Protocol):
    """A batch: arrays by input name, samples first, and their classes `(samples,)` if known."""

    @property
    def feeds(self) -> Mapping[str, np.ndarray]:
        """Arrays by input name."""

    @property
    def labels(self) -> np.ndarray | None:
        """The classes of the samples."""


@dataclass(frozen=True)
class Accuracy:
    """The first output of the quantized model against the float one's, and both against the labels.

    Fractions lie in 0..1. `top1` and `top1_float` are None without labels or classes, `agreement` where the output
    is one number. `sqnr_db` is None when the outputs are equal, and, like `cosine`, when a value is not finite:
    `nonfinite` counts those of the quantized model. A sample with a NaN is neither right nor in agreement.
    """

    samples: int
    labelled: int
    top1_float: float | None
    top1: float | None
    agreement: float | None
    sqnr_db: float | None
    cosine: float | None
    nonfinite: int


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
        sums.compare(_rows(expected), _rows(out))
        if batch.labels is not None and expected.ndim == 2 and expected.shape[1] > 1:
            sums.score(_rows(expected), _rows(out), np.asarray(batch.labels).reshape(-1))
    if not sums.samples:
        raise DataError("evaluation needs at least one sample, got none; check the evaluation data")
    return sums.result()


class _Sums:
    """Running sums over samples."""

    def __init__(self) -> None:
        self.samples = self.labelled = self.nonfinite = 0
        self.right_float = self.right = self.agreed = self.comparable = 0
        self.power = self.noise = self.cosine = 0.0

    def compare(self, expected: Floats, out: Floats) -> None:
        """Add the rows of a batch, `(samples, values)`."""
        self.samples += len(out)
        self.nonfinite += int((~np.isfinite(out)).sum())
        if out.shape[1] > 1:
            self.comparable += len(out)
            self.agreed += int((_decision(out) == expected.argmax(1)).sum())
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite ends as None
            self.power += float((expected**2).sum())
            self.noise += float(((expected - out) ** 2).sum())
            norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(out, axis=1)
            products = (expected * out).sum(1) / np.maximum(norms, _LEAST_NORM**2)
        self.cosine += float(np.where((expected == out).all(1), 1.0, products).sum())

    def score(self, expected: Floats, out: Floats, labels: np.ndarray) -> None:
        """Count the samples whose largest output is that of their class."""
        if len(labels) != len(out):
            raise DataError(f"a batch of {len(out)} samples has {len(labels)} labels; give one label for each sample")
        self.labelled += len(labels)
        self.right_float += int((_decision(expected) == labels).sum())
        self.right += int((_decision(out) == labels).sum())

    def result(self) -> Accuracy:
        """The figures over all samples."""
        ratio = self.power / self.noise if self.noise else np.inf
        return Accuracy(
            samples=self.samples,
            labelled=self.labelled,
            top1_float=self.right_float / self.labelled if self.labelled else None,
            top1=self.right / self.labelled if self.labelled else None,
            agreement=self.agreed / self.comparable if self.comparable else None,
            sqnr_db=float(10 * np.log10(ratio)) if np.isfinite(ratio) and ratio > 0 else None,
            cosine=self.cosine / self.samples if np.isfinite(self.cosine) else None,
            nonfinite=self.nonfinite,
        )


def _rows(output: np.ndarray) -> Floats:
    """An output as `(samples, values)`."""
    return output.astype(np.float64).reshape(len(output) if output.ndim else 1, -1)


def _decision(rows: Floats) -> NDArray[np.intp]:
    """The index of the largest value of each row, -1 where one is NaN."""
    return np.where(np.isnan(rows).any(1), -1, rows.argmax(1))
