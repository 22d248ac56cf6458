"""Rounding anew on the scales of a term: other data decide about the numbers, and about nothing else."""

from __future__ import annotations

import pytest
import torch

from ptq import scheme
from ptq.qtensor import QTensor
from ptq.solve import NEAREST, ROUNDINGS, Curvature, one_term, rounded_anew

SCHEMES = ("int4", "int4/16", "int4/32", "uint4/32", "fp8_e4m3fn", "lloyd3", "lloyd4x2", "int8")
GROUPS, ROWS, COLUMNS = 2, 12, 80


def curvature(seed: int, span: int) -> Curvature:
    inputs = torch.randn(GROUPS, 400, COLUMNS, generator=torch.Generator().manual_seed(seed)).cumsum(2)
    return Curvature.of((inputs.mT @ inputs).double() / 400, 400, span)


@pytest.mark.parametrize("name", SCHEMES)
def test_it_fits_the_other_data_on_the_same_scales(name: str) -> None:
    weight = torch.randn(GROUPS, ROWS, COLUMNS, generator=torch.Generator().manual_seed(1))
    weights, _, group = name.partition("/")
    wanted = scheme.parse(weights, group or None)
    first, other = (curvature(seed, wanted.format.span) for seed in (2, 3))
    term = one_term(weight, wanted, first, NEAREST).rungs[0][0]
    made = rounded_anew(weight, term, other)
    before = QTensor((term,), (GROUPS * ROWS, COLUMNS)).dequantize().reshape(weight.shape)

    def error(values: torch.Tensor) -> float:
        return float(other.errors(other.arranged(weight - values)).sum())

    assert error(made) < 0.95 * error(before)
    steps = term.scale[:, None] if term.blocks is None else term.scale[:, None] * term.wide(term.blocks.factors)
    numbers = made.flatten(0, 1) / steps
    if term.zero_point is not None:
        numbers += term.wide(term.zero_point)
    known = torch.tensor(term.format.values) if term.format.span == 1 else torch.tensor(term.format.book).unique()
    assert (numbers[..., None] - known.float()).abs().amin(-1).max() < 1e-3


def test_it_is_error_feedback() -> None:
    weight = torch.randn(GROUPS, ROWS, COLUMNS, generator=torch.Generator().manual_seed(1))
    data = curvature(2, 1)
    term = one_term(weight, scheme.parse("int4"), data, NEAREST).rungs[0][0]
    scale = term.scale.reshape(GROUPS, ROWS, 1)
    numbers = ROUNDINGS["hessian"].rows(data.arranged(weight), scale, term.format, data, None).values
    torch.testing.assert_close(rounded_anew(weight, term, data), data.restored(numbers * scale))
