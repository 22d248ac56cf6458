"""Put the rows of a weight on a grid: what methods have in common."""

from __future__ import annotations

from ptq.solve.anew import rounded_anew
from ptq.solve.curvature import Curvature
from ptq.solve.exact import on_grid
from ptq.solve.groups import Refine, grid_of
from ptq.solve.roundings import NEAREST, ROUNDINGS, RowRounding
from ptq.solve.search import scale_grid, solve
from ptq.solve.single import one_term
from ptq.solve.solution import Solution
from ptq.solve.steps import Steps

__all__ = [
    "NEAREST",
    "ROUNDINGS",
    "Curvature",
    "Refine",
    "RowRounding",
    "Solution",
    "Steps",
    "grid_of",
    "on_grid",
    "one_term",
    "rounded_anew",
    "scale_grid",
    "solve",
]
