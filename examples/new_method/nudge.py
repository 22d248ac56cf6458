"""Round to nearest, then nudge single integers by one where that lowers the output error."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from ptq.errors import OptionError
from ptq.formats.integer import IntFormat
from ptq.ladder import Ladder
from ptq.method import OneTerm, Request
from ptq.scheme import Scheme
from ptq.solve import Curvature


@dataclass(frozen=True)
class Nudge(OneTerm):
    """Integers with a scale a row. Each column is looked at once; the error of a row never grows."""

    ROUNDING = "nearest"

    @classmethod
    def of(cls, request: Request) -> Self:
        """Integers, and with data."""
        scheme = request.scheme
        if not isinstance(scheme.format, IntFormat) or not scheme.symmetric or scheme != Scheme(scheme.format):
            raise OptionError(f"nudge moves integers with a scale a channel, not {scheme.describe()}; use --method rtn")
        if not request.has_data:
            raise OptionError("--method nudge needs calibration data; give --data")
        return super().of(request)

    @property
    def needs(self) -> frozenset[str]:
        """The second moment of the inputs: what makes an output error of an error in a weight."""
        return frozenset({"moment"})

    def ladder(
        self, weight: Tensor, curvature: Curvature, *, points: int | None = None, least_scale: Tensor | None = None
    ) -> Ladder:
        """Quantize a weight `(groups, rows, in)`; `points` is for methods that sum some."""
        nearest = super().ladder(weight, curvature, points=points, least_scale=least_scale)
        ((term,),) = nearest.rungs
        scale = term.scale.reshape(*weight.shape[:2], 1)
        values = curvature.arranged(term.values.float().reshape(weight.shape))
        residual = curvature.arranged(weight) - values * scale
        slope, least, most = residual @ curvature.moment, values.min(), values.max()
        for column in range(weight.shape[-1]):
            here = slope[..., column] / (curvature.diagonal[:, None, column] * scale[..., 0])
            old = values[..., column].clone()
            values[..., column] = torch.clamp(old + here.round().clamp(-1, 1), least, most)
            moved = (values[..., column] - old) * scale[..., 0]
            residual[..., column] -= moved
            slope -= moved[..., None] * curvature.moment[:, None, column]
        made = replace(term, values=curvature.restored(values).flatten(0, 1).to(term.values.dtype))
        return Ladder(((made,),), curvature.errors(residual).reshape(1, -1), nearest.power)


METHOD = Nudge
