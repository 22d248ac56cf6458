"""How accurate a model is, as data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum


class Sense(Enum):
    """What a score means, and so how a loss of it is counted."""

    FRACTION = "fraction"
    """In 0..1, more is better; a loss is a difference."""
    MORE = "more"
    """More is better; a loss is a part of what there was."""
    LESS = "less"
    """An error, less is better; a loss is a part of what there was."""


@dataclass(frozen=True)
class Score:
    """A score by labels, of the float model and of the quantized one; None where it is no finite number."""

    name: str
    reference: float | None
    value: float | None
    sense: str = Sense.FRACTION.value
    decides: bool = True
    """Whether a loss of it is warned of."""

    @property
    def loss(self) -> float | None:
        """What is lost, as a fraction; below 0 where there is a gain, None where the float model has no number."""
        if self.reference is None:
            return None
        if self.value is None:
            return math.inf
        if self.sense == Sense.FRACTION.value:
            return self.reference - self.value
        change = self.value - self.reference if self.sense == Sense.LESS.value else self.reference - self.value
        if self.reference == 0:
            return 0.0 if change == 0 else math.copysign(math.inf, change)
        return change / abs(self.reference)

    def text(self, value: float | None) -> str:
        """A value of it as people read it."""
        if value is None:
            return "no number"
        return f"{100 * value:.1f} %" if self.sense == Sense.FRACTION.value else f"{value:.4g}"


@dataclass(frozen=True)
class Accuracy:
    """The first output of the quantized model against the float one's, and the scores of both by labels.

    An output `(samples, classes)` decides once a sample; `(samples, positions, classes)`, as of tokens, and `(samples,
    classes, …)` with two axes and more behind, as of images, decide at every one of `positions`, which are counted over
    all samples. `labelled` counts the decisions with a label.

    `agreement` is a fraction in 0..1, `kl` the mean divergence of the classes from the float model's, in nats; both are
    None where the output is one number. `sqnr_db` is None when the outputs are equal, and, like `cosine` and `kl`, when
    a value is not finite: `nonfinite` counts those of the quantized model. A decision with a NaN is neither right nor
    in agreement.
    """

    samples: int
    labelled: int
    agreement: float | None
    sqnr_db: float | None
    cosine: float | None
    nonfinite: int
    positions: int | None = None
    kl: float | None = None
    scores: tuple[Score, ...] = ()

    def score(self, name: str) -> Score | None:
        """The score of that name, None where the labels are not for it."""
        return next((score for score in self.scores if score.name == name), None)
