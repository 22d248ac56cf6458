"""Outputs as rows: of samples, or of decisions among classes."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_MOST_VALUES = 1 << 20
_NEAR_ONE = 1e-3


def samples(output: np.ndarray) -> np.ndarray:
    """An output as `(samples, values)`."""
    return output.reshape(len(output) if output.ndim else 1, -1)


def decisions(output: np.ndarray) -> np.ndarray:
    """An output as `(decisions, classes)`."""
    if output.ndim < 3:
        return samples(output)
    classes_last = output if output.ndim == 3 else np.moveaxis(output, 1, -1)
    return classes_last.reshape(-1, classes_last.shape[-1])


def parts(rows: np.ndarray) -> Iterator[slice]:
    """Parts of rows that fit memory in float64: logits of many tokens are large."""
    step = max(1, _MOST_VALUES // max(rows.shape[1], 1))
    yield from (slice(start, start + step) for start in range(0, len(rows), step))


def decision(rows: np.ndarray) -> NDArray[np.intp]:
    """The index of the largest value of each row, -1 where one is NaN."""
    best = rows.argmax(1)  # NaN counts as the largest
    return np.where(np.isnan(rows[np.arange(len(rows)), best]), -1, best)


def are_chances(rows: np.ndarray) -> bool:
    """Whether rows are the chances of classes, as a softmax makes them, and not logits."""
    if not (rows >= 0).all():
        return False
    return bool((np.abs(rows.sum(1, dtype=np.float64) - 1) < _NEAR_ONE).all())


def log_chances(rows: np.ndarray, of: np.ndarray) -> Floats:
    """The logarithms of the chances that logits give to one class of each row."""
    less, _, log_sum = _exponentials(rows)
    found: Floats = less[np.arange(len(of)), of] - log_sum
    return found


def divergence(rows: np.ndarray, others: np.ndarray) -> float:
    """The sum over rows of the Kullback-Leibler divergence of the chances in logits `others` from those in `rows`."""
    less, powers, log_sum = _exponentials(rows)
    less_others, _, log_sum_others = _exponentials(others)
    with np.errstate(invalid="ignore", over="ignore"):
        powers *= less - less_others
        weighted = powers.sum(1, dtype=np.float64)
        return float((weighted / np.exp(log_sum) + log_sum_others - log_sum).sum())


def log_of(chances: np.ndarray) -> np.ndarray:
    """The logits of chances: their logarithms, of those that are 0 that of the least normal number."""
    found: np.ndarray = np.log(np.maximum(chances, np.finfo(np.float32).tiny))
    return found


def _exponentials(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, Floats]:
    """Rows less their maximum, the exponentials of that, and the logarithms of their sums `(rows,)`.

    In the precision of the rows, as those of a language model are long.
    """
    wide = rows.astype(np.promote_types(rows.dtype, np.float32), copy=False)
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):  # what is not finite ends as None
        less = wide - wide.max(1, keepdims=True)
        powers = np.exp(less)
        return less, powers, np.log(powers.sum(1, dtype=np.float64))
