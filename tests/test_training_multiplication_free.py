"""Products on codes against products of the numbers that they stand for."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ptq import formats, training
from ptq.lowering.planes import codes_of
from ptq.training.gradients import Aligned
from ptq.training.multiplication_free import FP7, decode, matmul, multiply
from ptq.training.recipes import RECIPES
from ptq.training.sawb import Sawb

POWERS = ("luq_fp4", "luq_fp4_paper")


@pytest.mark.parametrize("name", POWERS)
def test_every_pair_of_codes(name: str) -> None:
    """All integers from -8 to 7, and every code of the powers."""
    fmt, integers = formats.get(name), torch.arange(-8, 8)[:, None]
    codes, values = torch.tensor(fmt.codes), torch.tensor(fmt.values)
    product = multiply(integers, codes, name)
    assert product.shape == (16, len(codes))
    assert set(product.flatten().tolist()) <= set(FP7.codes)
    assert torch.equal(decode(FP7, product), integers * values)
    assert torch.equal(product[decode(FP7, product) == 0].unique(), torch.tensor([0], dtype=torch.int32))
    assert torch.equal(multiply(integers & 15, codes, name), product)
    assert int((product >> 2 & 15).max()) == (10 if name == "luq_fp4" else 11)


def test_the_codes_are_those_of_the_formats() -> None:
    assert set(formats.get("int4").codes) == set(range(-7, 8))
    for name in (*POWERS, "int4"):
        fmt = formats.get(name)
        values = np.array(fmt.values)
        assert decode(fmt, torch.from_numpy(codes_of(values, fmt))).tolist() == values.tolist()
    assert (FP7.bits, FP7.max, len(FP7.values)) == (7, 1.75 * 2.0**14, 127)


def test_the_negative_zero_of_a_power_is_zero() -> None:
    assert multiply(torch.tensor([-3, 3]), torch.tensor(8)).tolist() == [0, 0]


@pytest.mark.parametrize("dtype", [torch.int8, torch.int16, torch.int32, torch.int64])
def test_types_and_shapes(dtype: torch.dtype) -> None:
    integers, powers = torch.tensor([[3], [-8]], dtype=dtype), torch.tensor([9, 7, 1], dtype=dtype)
    product = multiply(integers, powers)
    assert decode(FP7, product).tolist() == [[-3, 192, 3], [8, -512, -8]]
    assert multiply(integers[:0], powers).shape == (0, 3)
    assert multiply(integers[0, 0], powers[0]).shape == ()


@pytest.mark.parametrize("name", POWERS)
def test_matrices(name: str) -> None:
    torch.manual_seed(0)
    fmt = formats.get(name)
    integers = torch.randint(-8, 8, (17, 300))
    powers = torch.tensor(fmt.codes)[torch.randint(len(fmt.codes), (300, 11))]
    expected = integers.double() @ decode(fmt, powers).double()
    assert torch.equal(matmul(integers, powers, name).double(), expected)


def coded(values: Tensor, name: str) -> Tensor:
    return torch.from_numpy(codes_of(values.round().numpy(), formats.get(name)))


@pytest.mark.parametrize("name", POWERS)
def test_both_products_of_a_layer_backward(name: str) -> None:
    """Divided by the scales they are whole, and nothing but these: in float64, which rounds none of them."""
    rule = Aligned(name)
    recipe = replace(RECIPES["luq"], gradient=rule, all_layers=True)
    torch.manual_seed(1)
    layer = training.convert(nn.Linear(40, 24, bias=False).double(), recipe)
    x = torch.randn(30, 40, dtype=torch.float64, requires_grad=True)
    above = torch.randn(30, 24, dtype=torch.float64).mul(2).exp() * torch.randn(30, 24).sign()
    y = layer(x)
    torch.manual_seed(2)
    of_input, of_weight = torch.autograd.grad(y, [x, layer.weight], above)
    torch.manual_seed(2)
    drawn, scale = rule(above), rule.scale(above.abs().max())
    (step_x, integers), (step_w, weights) = (
        (step, coded((Sawb()(tensor) / step), "int4"))
        for tensor in (x.detach(), layer.weight.detach())
        for step in [Sawb().step(tensor)]
    )
    powers = coded(drawn / scale, name)
    for got, unit, expected in (
        (of_input, scale * step_w, matmul(weights.t(), powers.t(), name).t()),
        (of_weight, scale * step_x, matmul(integers.t(), powers, name).t()),
    ):
        whole = (got / unit).round()
        torch.testing.assert_close(whole * unit, got, rtol=1e-11, atol=1e-11 * float(unit))
        assert torch.equal(whole, expected.double())
        assert len(whole.unique()) > 100
