"""Formats that are fitted to a tensor: among some the best for it, or one that is made for it.

They have no table before there is a tensor. The formats that come of it are like any other, so that rounding, storing
and reporting them needs nothing new.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from ptq import formats
from ptq.formats import Format
from ptq.formats.minifloat import FloatFormat, SqueezedFormat

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Fitted(Format):
    """Chosen among `members` by the squared error, or made from a tensor.

    `whole` says that the tensor has one scale, with which its largest number is that of the format; the scale is
    searched otherwise, as that of any format is.
    """

    about: str
    members: tuple[Format, ...] = ()
    made: Callable[[Tensor], Format] | None = None
    whole: bool = False

    @property
    def min(self) -> float:
        """Not known without a tensor."""
        return -float("inf")

    @property
    def max(self) -> float:
        """Not known without a tensor."""
        return float("inf")

    @property
    def reach(self) -> float:
        """Not known without a tensor, so that integer kernels are none for it."""
        return float("inf")

    @property
    def own(self) -> bool:
        """Whether the table belongs to the tensor, and is stored with it."""
        return self.made is not None

    def formats(self, weight: Tensor) -> tuple[Format, ...]:
        """Those that come into question for a tensor: without negative numbers only where it has none."""
        if self.made is not None:
            return (self.made(weight),)
        low = float(weight.min()) if weight.numel() else 0.0
        return tuple(fmt for fmt in self.members if fmt.min < 0 or low >= 0)


def _squeezed(weight: Tensor) -> Format:
    from ptq.squeeze import Squeeze  # torch only where a tensor is at hand

    return SqueezedFormat.of(float(Squeeze.of(weight).alpha))


_SIGNED: Final = (
    FloatFormat.of("fp8_e5m2f", 5, 2),
    FloatFormat.of("fp8_e4m3f", 4, 3),
    formats.get("fp8_e3m4"),
    formats.get("fp8_e2m5"),
    FloatFormat.of("fp8_e1m6", 1, 6),
)
"""Of 8 bits without special patterns; "f" says so where formats of the same widths have some.

One bit of exponent makes an even grid, which is that of int8: for tensors without tails nothing is better.
"""

_UNSIGNED: Final = tuple(
    FloatFormat.of(f"ufp8_e{8 - mantissa}m{mantissa}", 8 - mantissa, mantissa, signed=False) for mantissa in range(3, 8)
)

FITTED: Final[Mapping[str, Fitted]] = MappingProxyType(
    {
        fitted.name: fitted
        for fitted in (
            Fitted(
                "fp8_auto",
                8,
                "of 8-bit floats without special patterns the one of least squared error (arXiv:2208.09225)",
                _SIGNED,
            ),
            Fitted(
                "ffp8",
                8,
                "of 8-bit floats without special patterns the one of least squared error, without a sign where no "
                "number is negative; the bias follows from the largest (arXiv:2104.07329)",
                (*_SIGNED, *_UNSIGNED),
                whole=True,
            ),
            Fitted(
                "s2fp8",
                8,
                "fp8_e5m2, shifted and squeezed in the logarithm to the mean and the largest (arXiv:2001.05674)",
                made=_squeezed,
                whole=True,
            ),
        )
    }
)
"""Every fitted format by name."""
