"""What a file answers on other processors, as data and in words."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

_TOLD_DB: Final = 0.5
_ONE_SAMPLE: Final = 1.5
"""Above one, which may be chance, and below two."""


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

    @property
    def lost_cosine(self) -> float:
        """By how much the cosine to the float output is lower, as follows from the two ratios."""
        return max(_cosine(self.here_db) - _cosine(self.sqnr_db), 0.0)

    def exceeds(self, most: float, *, classes: bool) -> bool:
        """Whether more than a fraction is lost: of classes in agreement and in more than one sample, else in cosine."""
        if self.nonfinite:
            return True
        if not classes or self.agreement is None or self.here_agreement is None:
            return self.lost_cosine > most
        lost = self.here_agreement - self.agreement
        return lost > most and lost * self.samples > _ONE_SAMPLE

    @property
    def told(self) -> str | None:
        """The numbers and the way out, where there is something to tell."""
        if self.lost_db < _TOLD_DB and not self.nonfinite:
            return None
        agreed = ""
        if self.agreement is not None and self.here_agreement is not None and self.agreement < self.here_agreement:
            agreed = f" and agrees in {100 * self.agreement:.0f} % instead of {100 * self.here_agreement:.0f} %"
        count = f"{self.samples} sample{'s' * (self.samples > 1)}"
        return (
            f"on processors without VNNI the output has {_decibels(self.sqnr_db)} instead of "
            f"{_decibels(self.here_db)}{agreed} (simulated on {count}), as int8 sums stop at 16 bits there; --portable "
            f"prevents it"
        )


def _cosine(decibels: float | None) -> float:
    return 1.0 if decibels is None else 1 / math.sqrt(1 + 10 ** (-decibels / 10))


def _decibels(value: float | None) -> str:
    return "no error" if value is None else f"{value:.1f} dB"
