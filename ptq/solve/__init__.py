"""Put the rows of a weight on a grid: what methods have in common."""

from __future__ import annotations

from ptq.solve.curvature import Curvature
from ptq.solve.exact import on_grid
from ptq.solve.roundings import NEAREST, ROUNDINGS, RowRounding
from ptq.solve.search import scale_grid, solve
from ptq.solve.single import one_term
from ptq.solve.solution import Solution

__all__ = [
    "NEAREST",
    "ROUNDINGS",
    "Curvature",
    "RowRounding",
    "Solution",
    "on_grid",
    "one_term",
    "scale_grid",
    "solve",
]
