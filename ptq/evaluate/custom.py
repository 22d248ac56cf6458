"""A score that a function of the user computes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ptq.errors import DataError, OptionError, first_line
from ptq.imports import imported


@dataclass(frozen=True)
class Custom:
    """`function(outputs, labels)`, both with all samples first; its attribute `greater_is_better` may be False."""

    name: str
    function: Callable[..., Any]

    @classmethod
    def of(cls, name: str) -> Custom:
        """The function that `module:callable` names.

        Raises:
            OptionError: there is none.

        """
        return cls(name, imported("--metric", name))

    @property
    def greater_is_better(self) -> bool:
        """Whether it is no error."""
        return bool(getattr(self.function, "greater_is_better", True))

    def tally(self) -> Whole:
        """Begin to gather what it is called with."""
        return Whole(self)


@dataclass
class Whole:
    """All outputs and labels: only the function knows what of them it needs."""

    custom: Custom
    outputs: list[np.ndarray] = field(default_factory=list)
    labels: list[np.ndarray] = field(default_factory=list)

    def add(self, output: np.ndarray, labels: np.ndarray) -> None:
        """Keep them."""
        self.outputs.append(output)
        self.labels.append(labels)

    def result(self) -> float | None:
        """What the function returns.

        Raises:
            DataError: batches differ in shape.
            OptionError: the function fails, or returns no number.

        """
        try:
            given = np.concatenate(self.outputs), np.concatenate(self.labels)
        except ValueError as error:
            raise DataError(
                f"--metric {self.custom.name} takes all samples at once, and batches differ in shape "
                f"({first_line(error)}); pad them"
            ) from error
        try:
            return float(self.custom.function(*given))
        except Exception as error:  # the user's function may raise anything
            raise OptionError(
                f"--metric {self.custom.name} fails ({first_line(error)}); it is called with outputs and labels of all "
                f"samples, and returns a number"
            ) from error
