"""What a run is expected to take, as data and in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ptq.report.console import megabytes


@dataclass(frozen=True)
class Prediction:
    """Seconds of each stage, and the peak memory of the process; `left_out` names what no time is predicted for."""

    stages: Mapping[str, float]
    peak_bytes: int
    left_out: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """Of all stages."""
        return sum(self.stages.values())

    def describe(self) -> str:
        """In a line."""
        longest = sorted(self.stages.items(), key=lambda each: -each[1])[:3]
        parts = ", ".join(f"{name} {duration(seconds)}" for name, seconds in longest if seconds > 0.05 * self.seconds)
        more = f", and the time of {', '.join(self.left_out)}" if self.left_out else ""
        return f"about {duration(self.seconds)} here ({parts}){more}; about {megabytes(self.peak_bytes)} of memory"


def duration(seconds: float) -> str:
    """As exact as a prediction is."""
    if seconds < 60:
        return f"{seconds:.0f} s" if seconds >= 2 else f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
