"""What is worth its cost: the Pareto front of points, and its knee."""

from __future__ import annotations

from collections.abc import Sequence

LEAST_FRONT = 3
"""Points of a front that may have a knee."""

Point = tuple[float, float]
"""A cost, less is better, and a gain, more is better."""


def front(points: Sequence[Point]) -> list[int]:
    """The indices of the points that no other beats in one without losing in the other, the cheapest first.

    Of equal points the first stands for all.
    """
    found: list[int] = []
    for index in sorted(range(len(points)), key=lambda each: (points[each][0], -points[each][1])):
        if not found or points[index][1] > points[found[-1]][1]:
            found.append(index)
    return found


def knee(points: Sequence[Point]) -> int | None:
    """The index of the point of the front that lies farthest from the line between its ends, both axes in 0..1.

    From there on, what is paid buys less. None where a front has no points between its ends.
    """
    ends = front(points)
    if len(ends) < LEAST_FRONT:
        return None
    (low_cost, low), (high_cost, high) = points[ends[0]], points[ends[-1]]

    def above(index: int) -> float:
        cost, gain = points[index]
        return (gain - low) / (high - low) - (cost - low_cost) / (high_cost - low_cost)

    best = max(ends[1:-1], key=above)
    return best if above(best) > 0 else None
