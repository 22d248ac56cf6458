"""Weights on a grid of their format are kept as they are, and others are left to the method."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ptq import formats
from ptq.qtensor import QTensor
from ptq.scheme import Scheme
from ptq.solve import Curvature, on_grid

INT4 = Scheme(formats.get("int4"))


def integers(largest: int, rows: int = 6, columns: int = 20) -> Tensor:
    """Rows whose largest magnitude is not always the largest."""
    found = torch.randint(-largest, largest + 1, (1, rows, columns), generator=torch.Generator().manual_seed(0)).float()
    found[0, 1].clamp_(-3, 3)
    found[0, :, 0] = 1
    found[0, 2, 1:] = 0
    return found


def kept(weight: Tensor, scheme: Scheme = INT4, most: int = 127) -> QTensor | None:
    groups, _, columns = weight.shape
    ladder = on_grid(weight, scheme, Curvature.unknown(groups, columns), most)
    if ladder is None:
        return None
    assert not ladder.error.any()
    return ladder.pick(ladder.all_on(0))


@pytest.mark.parametrize(("name", "largest"), [("int3", 3), ("int4", 7), ("int8", 127)])
def test_one_scale_for_all_is_found(name: str, largest: int) -> None:
    numbers = integers(largest)
    made = kept(numbers * 0.0371, Scheme(formats.get(name)))
    assert torch.equal(made.terms[0].values, numbers[0])
    torch.testing.assert_close(made.terms[0].scale, torch.full((6,), 0.0371))


def test_a_scale_for_every_row_is_found() -> None:
    """Of both signs, as a folded BatchNorm leaves them; zeros have the scale 1."""
    scale = torch.tensor([0.3, -1e-3, 70.0, 0.02, 5.0, 0.0])[:, None]
    weight = (integers(7) * scale).float() * torch.tensor(1.1)
    made = kept(weight)
    torch.testing.assert_close(made.dequantize(), weight[0], rtol=1e-6, atol=0)
    assert made.terms[0].scale[-1] == 1


def test_groups_of_a_convolution_are_rows() -> None:
    weight = integers(7, 6).reshape(3, 2, 20) * 0.5
    assert torch.equal(kept(weight).dequantize(), weight.flatten(0, 1))


OTHERS = {
    "a number between two": lambda w: w.index_put(
        (torch.tensor(0), torch.tensor(3), torch.tensor(4)), torch.tensor(0.5)
    ),
    "more integers than the format has": lambda w: w.index_put(
        (torch.tensor(0), torch.tensor(0), torch.tensor(4)), torch.tensor(8.0)
    ),
    "random": lambda w: torch.randn(w.shape),
}


@pytest.mark.parametrize("name", OTHERS)
def test_others_are_left_to_the_method(name: str) -> None:
    torch.manual_seed(0)
    assert kept(OTHERS[name](integers(7))) is None


def test_schemes_without_a_scale_a_row() -> None:
    weight = integers(7) * torch.tensor([0.3, 1, 2, 3, 4, 5])[:, None]
    assert kept(weight) is not None
    assert kept(weight, replace(INT4, per_tensor=True)) is None
    assert kept(integers(7), replace(INT4, per_tensor=True)) is not None
    assert kept(weight, replace(INT4, group=32, factors=formats.get("ulog8"))) is None
    for name in ("uint4", "fp4_e2m1"):
        assert kept(weight, Scheme(formats.get(name))) is None
    assert kept(integers(100), Scheme(formats.get("int8")), most=63) is None


def test_one_row_among_many_decides() -> None:
    """Wherever it is, and without columns or rows there is nothing to decide."""
    weight = integers(7, 300)
    assert kept(weight) is not None
    for row in (0, 17, 299):
        broken = weight.clone()
        broken[0, row, 3] = 0.5
        assert kept(broken) is None
    assert torch.equal(kept(torch.zeros(1, 4, 3)).terms[0].scale, torch.ones(4))
