"""How numbers are distributed, and the grids they are rounded to."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Distribution:
    """A histogram in bins of one width from `low` to `high`; the numbers of the grid, if there is one, ascending."""

    low: float
    high: float
    counts: tuple[int, ...]
    grid: tuple[float, ...] = ()


@dataclass(frozen=True)
class ActivationReport:
    """A tensor: what was seen of it, and the grid that all its numbers are rounded to.

    Without `step` and `zero_point` it has a range of its own at every call. `clipped` is the part of the numbers that
    lies outside of the grid.
    """

    tensor: str
    low: float
    high: float
    numbers: Distribution
    step: float | None = None
    zero_point: int | None = None
    clipped: float | None = None
