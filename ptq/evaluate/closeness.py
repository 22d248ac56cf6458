"""How close an output is to that of the float model, as running sums."""

from __future__ import annotations

from typing import Any

import numpy as np

from ptq.evaluate.rows import are_chances, decision, decisions, divergence, log_of, parts, samples

_LEAST_NORM = 1e-12


class Closeness:
    """Sums over the batches of one model."""

    def __init__(self) -> None:
        self._samples = self._nonfinite = 0
        self._agreed = self._comparable = 0
        self._power = self._noise = self._cosine = self._divergence = 0.0

    def add(self, expected: np.ndarray, out: np.ndarray) -> None:
        """Add the outputs of a batch, of the float model and of this one."""
        rows = samples(expected), samples(out)
        self._samples += len(rows[0])
        self._nonfinite += int((~np.isfinite(out)).sum())
        for part in parts(rows[0]):
            self._compare(*(each[part].astype(np.float64) for each in rows))
        deciding = decisions(expected), decisions(out)
        if deciding[0].shape[1] > 1:
            self._comparable += len(deciding[0])
            self._agreed += int((decision(deciding[1]) == deciding[0].argmax(1)).sum())
            for part in parts(deciding[0]):
                self._diverge(*(each[part] for each in deciding))

    def _compare(self, expected: np.ndarray, out: np.ndarray) -> None:
        """Add the error of some rows, `(samples, values)`."""
        with np.errstate(invalid="ignore", over="ignore"):  # what is not finite ends as None
            self._power += float((expected**2).sum())
            self._noise += float(((expected - out) ** 2).sum())
            norms = np.linalg.norm(expected, axis=1) * np.linalg.norm(out, axis=1)
            products = (expected * out).sum(1) / np.maximum(norms, _LEAST_NORM**2)
        self._cosine += float(np.where((expected == out).all(1), 1.0, products).sum())

    def _diverge(self, expected: np.ndarray, out: np.ndarray) -> None:
        """Add the Kullback-Leibler divergence of some rows, `(decisions, classes)`."""
        logits = map(log_of, (expected, out)) if are_chances(expected) else (expected, out)
        self._divergence += divergence(*logits)

    def result(self) -> dict[str, Any]:
        """The figures over all samples, by the names of those of `Accuracy`."""
        ratio = self._power / self._noise if self._noise else np.inf
        compared = self._comparable > 0
        return {
            "agreement": self._agreed / self._comparable if compared else None,
            "sqnr_db": float(10 * np.log10(ratio)) if np.isfinite(ratio) and ratio > 0 else None,
            "cosine": self._cosine / self._samples if np.isfinite(self._cosine) else None,
            "nonfinite": self._nonfinite,
            "positions": self._comparable or None,
            "kl": self._divergence / self._comparable if compared and np.isfinite(self._divergence) else None,
        }
