"""How a tensor is quantized: in which format, with how many scales, around which zero."""

from __future__ import annotations

from dataclasses import dataclass

from ptq.errors import OptionError
from ptq.formats import Format


@dataclass(frozen=True)
class Scheme:
    """A format and its scales: one per index of `axis`, or one for the tensor when it is None.

    Symmetric means that zero is the number 0 of the format; otherwise a zero point is chosen with the scale.
    """

    format: Format
    axis: int | None = None
    symmetric: bool = True

    def __post_init__(self) -> None:
        if self.symmetric and self.format.min != -self.format.max:
            raise OptionError(
                f"a symmetric scheme of {self.format.name} reaches {self.format.min:g} but {self.format.max:g}; "
                "use a signed narrow format, or an asymmetric scheme"
            )
        if not self.symmetric and any(value % 1 for value in self.format.values):
            raise OptionError(
                f"an asymmetric scheme of {self.format.name} has no integers for a zero point; use an integer format"
            )
