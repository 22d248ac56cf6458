"""One choice for each layer, of least cost under budgets: an integer program, solved to the optimum."""

from __future__ import annotations

import ctypes
import itertools
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array

from ptq.errors import OptionError

Table = Mapping[str, Sequence[float]]
"""A number for each choice of each layer."""

_INFEASIBLE: Final = 2
_STDOUT: Final = 1
_ONE_AT_A_TIME: Final = threading.Lock()
_UNITS: Final = 1e4
"""What the least cost is scaled to: HiGHS stops within 1e-6 of the optimum."""


@dataclass(frozen=True)
class Budget:
    """The `amounts` of the choices may come to `most` in sum; `name` is what they are, for messages."""

    name: str
    amounts: Table
    most: float

    def of(self, chosen: Mapping[str, int]) -> float:
        """What choices come to."""
        return sum(self.amounts[layer][choice] for layer, choice in chosen.items())

    @property
    def least(self) -> float:
        """The least that they can come to."""
        return sum(min(amounts) for amounts in self.amounts.values())


def assign(costs: Table, budgets: Sequence[Budget]) -> dict[str, int]:
    """The choice of each layer, with which the sum of the costs is least.

    Raises:
        OptionError: no choices are within all budgets.

    """
    if not costs:
        return {}
    program = _Program.of(costs, budgets)
    relaxed = program.solve(program.costs, whole=False)
    if relaxed is None:
        raise OptionError(_none(budgets))
    scale = abs(float(program.costs @ relaxed)) or float(np.abs(program.costs).max()) or 1.0
    tight = [budget.most for budget in budgets]
    while True:
        solved = program.solve(program.costs * (_UNITS / scale), whole=True, most=tight)
        if solved is None:
            raise OptionError(_none(budgets))
        chosen = {
            layer: int(solved[first:last].argmax())
            for layer, (first, last) in zip(costs, itertools.pairwise(program.ends), strict=True)
        }
        over = [budget.of(chosen) - budget.most for budget in budgets]
        if all(excess <= 0 for excess in over):
            return chosen
        # the solver's numbers are within a tolerance; what is stored is counted exactly
        tight = [most - max(excess, 0.0) for most, excess in zip(tight, over, strict=True)]


def _none(budgets: Sequence[Budget]) -> str:
    said = ", ".join(f"{budget.name} at most {budget.most:g} (at least {budget.least:g})" for budget in budgets)
    return f"no choice of formats has {said}; raise a budget, or give more formats"


@dataclass(frozen=True)
class _Program:
    """Variables are 1 where a choice is taken, those of layer `n` from `ends[n]` to `ends[n + 1]`."""

    costs: NDArray[np.float64]
    ends: tuple[int, ...]
    amounts: NDArray[np.float64]
    most: tuple[float, ...]

    @classmethod
    def of(cls, costs: Table, budgets: Sequence[Budget]) -> _Program:
        flat = np.concatenate([np.asarray(each, np.float64) for each in costs.values()])
        ends = (0, *itertools.accumulate(len(each) for each in costs.values()))
        rows = [np.concatenate([np.asarray(b.amounts[layer], np.float64) for layer in costs]) for b in budgets]
        amounts = np.array(rows).reshape(len(budgets), len(flat))
        return cls(flat, ends, amounts, tuple(budget.most for budget in budgets))

    def solve(
        self, costs: NDArray[np.float64], *, whole: bool, most: Sequence[float] | None = None
    ) -> NDArray[np.float64] | None:
        """The variables at the optimum, whole numbers or between; None where there is none."""
        layers, count = len(self.ends) - 1, len(costs)
        one = csr_array((np.ones(count), np.arange(count), np.array(self.ends)), shape=(layers, count))
        constraints = [LinearConstraint(one, 1, 1)]
        for amounts, limit in zip(self.amounts, most or self.most, strict=True):
            unit = abs(limit) or 1.0
            constraints.append(LinearConstraint(amounts[None] / unit, -np.inf, limit / unit))
        with _silence():
            found = milp(
                costs,
                integrality=np.full(count, int(whole)),
                bounds=Bounds(0, 1),
                constraints=constraints,
                options={"mip_rel_gap": 0.0},
            )
        if found.status == _INFEASIBLE:
            return None
        if found.x is None:
            raise AssertionError(found.message)
        solution: NDArray[np.float64] = found.x
        return solution


@contextmanager
def _silence() -> Iterator[None]:
    """Drop what C code prints: HiGHS 1.12 has a line for its developers that no option turns off."""
    with _ONE_AT_A_TIME:  # the second would take the nowhere of the first for what was shown
        try:
            shown = os.dup(_STDOUT)
        except OSError:  # it is closed
            yield
            return
        stdio = ctypes.CDLL(None)
        stdio.fflush(None)
        try:
            with Path(os.devnull).open("wb") as nowhere:
                os.dup2(nowhere.fileno(), _STDOUT)
            yield
        finally:
            stdio.fflush(None)
            os.dup2(shown, _STDOUT)
            os.close(shown)
