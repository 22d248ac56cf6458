"""Outlier channel splitting (arXiv:1901.09504): columns of large weights go into several copies, so all steps shrink.

The paper writes a column twice with half the weights, and the channel of the input with it. Here the copies are summed
again: they have one scale, so a row stays one scale times integers, of which those of a column in `m` copies reach `m`
times as far, and the input stays as it is.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Final

import torch
from torch import Tensor

from ptq.errors import OptionError
from ptq.formats import most_steps
from ptq.formats.integer import IntFormat
from ptq.ladder import Ladder
from ptq.method import Request
from ptq.qtensor import Term
from ptq.scales import ScaleGrid
from ptq.scheme import Scheme
from ptq.solve import NEAREST, Curvature, Solution, one_term, scale_grid
from ptq.solve.search import candidates, limits

EXPANDED: Final = tuple(2.0**-k for k in range(6, -1, -1))
"""What a weight may grow by, as parts of its columns: the rungs that bits are spent on."""

MOST_COPIES: Final = 4
"""Of one column; each is in a term of its own."""


@dataclass(frozen=True)
class Ocs:
    """As many splits as bits or a tolerance pay for; weights are rounded to nearest.

    A column is one place in the kernels of one input, for all outputs of a layer and all groups of a convolution.
    """

    OPTIONS: ClassVar[frozenset[str]] = frozenset({"bits", "tolerance"})

    scheme: Scheme
    portable: bool = False

    @classmethod
    def of(cls, request: Request) -> Ocs:
        """The method for a request.

        Raises:
            OptionError: the scheme is not of signed integers with a scale a row or a tensor, or int8 kernels do not
                take the sum of two of them.

        """
        fmt, made = request.scheme.format, cls(request.scheme, request.portable)
        if not isinstance(fmt, IntFormat) or not fmt.signed or request.scheme.group is not None:
            raise OptionError(
                f"ocs splits columns of int2 to int7 with a scale a channel or a tensor, not "
                f"{request.scheme.describe()}; use --method gptq or rtn for it"
            )
        if made.most_copies < 2 and request.options.get("points") != 1:
            raise OptionError(
                f"ocs adds two {fmt.name}, up to {2 * fmt.max:g}, and int8 kernels take integers up to {made._most}; "
                f"give fewer bits, or use --method rtn"
            )
        return made

    @property
    def choices(self) -> tuple[Scheme, ...]:
        """There is one."""
        return (self.scheme,)

    @property
    def needs(self) -> frozenset[str]:
        """The mean input."""
        return frozenset({"mean"})

    @property
    def integral(self) -> bool:
        """All copies of a column have the scale of their row."""
        return True

    @property
    def most_copies(self) -> int:
        """Of one column."""
        return min(MOST_COPIES, self._most // int(self.scheme.format.max))

    @property
    def _most(self) -> int:
        return most_steps(portable=self.portable)

    def ladder(
        self, weight: Tensor, curvature: Curvature, *, points: int | None = None, least_scale: Tensor | None = None
    ) -> Ladder:
        """Quantize a weight `(groups, rows, in)` with more and more columns split, each into up to `points` copies."""
        alone = one_term(weight, self.scheme, curvature, NEAREST, most=self._most, least_scale=least_scale)
        most = min(points or self.most_copies, self.most_copies)
        if most < 2:
            return alone
        least = None if least_scale is None else least_scale.reshape(*weight.shape[:2], 1)
        rungs, errors = [alone.rungs[0]], [alone.error[0]]
        for copies in split_columns(weight.abs().amax((0, 1)), most):
            found = self._rounded(weight, copies, curvature, least)
            rungs.append(_terms(found, copies, self.scheme))
            errors.append(found.error.reshape(-1))
        return Ladder(tuple(rungs), torch.stack(errors), alone.power, whole=True)

    def _rounded(self, weight: Tensor, copies: Tensor, curvature: Curvature, least: Tensor | None) -> Solution:
        """On the scales of least error, integers that reach as far as all copies of their column `(in,)` together."""
        fmt, together = self.scheme.format, self.scheme.per_tensor
        part = weight / copies
        widest = part.abs().amax(-1, keepdim=True) / fmt.max
        if together:
            grid = ScaleGrid.exact(None if least is None else least.max())
            widest = widest.max().expand_as(widest)
        else:
            grid = scale_grid(part, limits(fmt), curvature, least)
        best: Solution | None = None
        for factor in candidates(fmt):
            scale = grid.snap(widest * factor)
            values = (weight / scale).round().clamp(-fmt.max * copies, fmt.max * copies)
            error = curvature.errors(curvature.arranged(weight - values * scale))
            found = Solution(values, scale, error)
            if best is None or (together and error.sum() < best.error.sum()):
                best = found
            elif not together:
                best = best.better(found)
        if best is None:
            raise AssertionError
        return best


def split_columns(largest: Tensor, most: int) -> list[Tensor]:
    """How many copies there are of each column, int64 `(in,)`, as the weight grows by each part of EXPANDED.

    The next to be split is always that with the largest weight left, of `largest (in,)` in one copy and an `m`th of it
    in `m` (the paper halves one of the copies). `most` is the largest number of copies.
    """
    left = largest[:, None] / torch.arange(1, most)
    order = left.flatten().argsort(descending=True, stable=True) // (most - 1)
    counts = dict.fromkeys(math.ceil(part * len(largest)) for part in EXPANDED)
    return [1 + order[:count].bincount(minlength=len(largest)) for count in counts]


def share(integers: Tensor, copies: Tensor) -> list[Tensor]:
    """Integers `(…, in)` as the sum of so many a column: copy `k` of `m` is `floor((n + k) / m)`.

    Of two these are the halves `round((x - 1/2) / 2)` and `round((x + 1/2) / 2)` of an `x` that rounds to `n` (section
    3.3 of the paper, "quantization-aware splitting"). Those of columns in fewer copies are left out.
    """
    return [torch.floor((integers + k) / copies)[..., copies > k] for k in range(int(copies.max()))]


def _terms(found: Solution, copies: Tensor, scheme: Scheme) -> tuple[Term, ...]:
    scale, terms = found.scale.reshape(-1).contiguous(), []
    for k, values in enumerate(share(found.values.flatten(0, 1), copies)):
        columns = (copies > k).nonzero()[:, 0] if k else None
        terms.append(Term(values.to(torch.int8), scale, scheme.format, columns=columns))
    return tuple(terms)


METHOD = Ocs
