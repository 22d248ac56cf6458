"""The contract that every method keeps on every scheme, and the limits of int8."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from _pytest.mark.structures import ParameterSet
from schemes import (
    ALL,
    FEW,
    GROUPS,
    METHODS,
    WEIGHTS,
    check_contract,
    curvature,
    gaussian,
    inputs,
    members,
    quantized,
)
from torch import Tensor

from ptq import scheme
from ptq.errors import OptionError
from ptq.formats import INT8_MAX, PORTABLE_MAX
from ptq.method import Request
from ptq.recipe import METHODS as REGISTERED
from ptq.scales import LOGARITHMIC
from ptq.scheme import SCHEMES
from ptq.solve import Curvature, learned


@pytest.fixture(autouse=True)
def few_iterations(monkeypatch: pytest.MonkeyPatch) -> None:
    """What holds for any result needs no good one."""
    monkeypatch.setattr(learned, "ITERATIONS", 25)


def everywhere() -> Iterator[ParameterSet]:
    """Every method on every scheme; of the methods that differ in how they round only, most are slow tests."""
    for method in METHODS:
        for name in ALL:
            always = method in {"rtn", "gptq"} or name in FEW
            yield pytest.param(method, name, marks=[] if always else pytest.mark.slow, id=f"{method}-{name}")


@pytest.mark.parametrize(("method", "name"), list(everywhere()))
def test_every_method_keeps_the_contract_on_every_scheme(method: str, name: str) -> None:
    """Rows of 72 columns, no multiple of any group but 8."""
    how, weight = ALL[name], gaussian(2, 5, 72)
    before, curve = weight.clone(), curvature(inputs(200, 72), 2)
    made = quantized(method, how, weight, curve)
    assert torch.equal(weight, before)
    term = check_contract(made, how, weight)
    again = quantized(method, how, weight, curve)
    assert torch.equal(again.dequantize(), made.dequantize())
    assert torch.equal(again.terms[0].scale, term.scale)


@pytest.mark.parametrize("name", ALL)
def test_bits_are_those_of_the_parts(name: str) -> None:
    how, rows, columns = ALL[name], 10, 72
    made = quantized("rtn", how, gaussian(2, 5, columns), Curvature.unknown(2, columns))
    groups = math.ceil(columns / how.group) if how.group else 1
    factor = how.factors.bits if how.factors else 0
    zero = 0 if how.symmetric else how.format.bits
    parts = rows * (columns * how.format.bits + groups * (factor + zero))
    shared = how.per_tensor or (how.factors is not None and how.factors.min < 1) or how.factors == LOGARITHMIC
    scales = 32 if shared else 8 * rows
    assert made.storage_bits == parts + scales
    assert made.bits_per_weight == pytest.approx((parts + scales) / (rows * columns))
    if how.group and columns % how.group == 0:
        assert how.bits == pytest.approx(parts / (rows * columns))


def awkward() -> dict[str, tuple[Tensor, Tensor]]:
    """Weights and inputs that are ordinary in trained networks and hard on careless code."""
    weight, x = gaussian(1, 6, 40), inputs(300, 40)
    zero_row, constant_row, outlier, positive, dead = (weight.clone() for _ in range(5))
    zero_row[0, 2] = 0
    constant_row[0, 3] = 0.25
    outlier[0, 1, 7] = 1e4
    dead[0, 1] *= 2.0**-30
    idle = x.clone()
    idle[:, 5:21] = 0
    return {
        "zero row": (zero_row, x),
        "constant row": (constant_row, x),
        "outlier": (outlier, x),
        "no negative numbers": (positive.abs() + 0.5, x),
        "no positive numbers": (-positive.abs() - 0.5, x),
        "a row left for dead": (dead, x),
        "dead inputs": (weight, idle),
        "rank 1": (weight, x[:, :1].expand(-1, 40)),
        "two samples": (weight, x[:2]),
        "no input": (weight, x * 0),
        "all zero": (weight * 0, x),
        "tiny": (weight * 1e-30, x),
        "huge": (weight * 1e30, x),
        "one column": (weight[:, :, :1], x[:, :1]),
        "one row": (weight[:, :1], x),
    }


@pytest.mark.parametrize("case", awkward())
@pytest.mark.parametrize("method", METHODS)
def test_awkward_weights(method: str, case: str) -> None:
    weight, x = awkward()[case]
    for name, how in FEW.items():
        made = quantized(method, how, weight, curvature(x))
        check_contract(made, how, weight)
        dense = made.dequantize()
        assert (dense[weight[0] == 0] == 0).all(), name
        # the largest number of a row or tensor is what scales are found for, and no error is larger
        assert (dense - weight[0]).abs().max() <= weight.abs().max() * (1 + 1e-6), name


@pytest.mark.parametrize("case", awkward())
@pytest.mark.parametrize("method", REGISTERED)
def test_every_rung_of_every_method_survives_awkward_weights(method: str, case: str) -> None:
    weight, x = awkward()[case]
    made = REGISTERED[method].METHOD.of(Request(ALL["int4-channel"], has_data=True))
    ladder = made.ladder(weight, curvature(x))
    for rung, terms in enumerate(ladder.rungs):
        picked = ladder.pick(ladder.all_on(rung))
        dense = picked.dequantize()
        assert dense.isfinite().all()
        assert (dense[weight[0] == 0] == 0).all()
        assert picked.fits_int8 == made.integral
        assert all(members(term.values, term.format) and (term.scale > 0).all() for term in terms)


@pytest.mark.parametrize("name", [name for name, how in FEW.items() if not how.per_tensor])
@pytest.mark.parametrize("method", METHODS)
def test_groups_of_a_convolution_do_not_mix(method: str, name: str) -> None:
    how, weight, x = FEW[name], gaussian(3, 4, 36), [inputs(200, 36, seed=k) for k in range(3)]
    grams = torch.stack([each.double().T @ each.double() / len(each) for each in x])
    together = quantized(method, how, weight, Curvature.of(grams, 200)).dequantize()
    for k in range(3):
        curve = Curvature.of(grams[k : k + 1], 200)
        alone = quantized(method, how, weight[k : k + 1], curve).dequantize()
        difference = (together[4 * k : 4 * k + 4] - alone).square().sum()
        assert difference < 0.02 * weight[k].square().sum(), "the unit of the scales may be another"


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("group", GROUPS)
def test_integers_that_int8_kernels_take(group: str, method: str, *, portable: bool) -> None:
    """Beyond 63, pairs of products saturate on CPUs without VNNI."""
    most = PORTABLE_MAX if portable else INT8_MAX
    weight, curve = gaussian(1, 6, 72), curvature(inputs(200, 72))
    taken = 0
    for name in WEIGHTS:
        try:
            how = scheme.parse(name, group, integer=True, portable=portable)
        except OptionError:
            continue
        if how.fits_int8:
            made = quantized(method, how, weight, curve, portable=portable)
            check_contract(made, how, weight)
            assert made.integers().abs().max() <= most, name
            taken += 1
    assert taken > (7 if group.isdigit() else 14)


@pytest.mark.parametrize("name", ["int4-channel", "int8-tensor", "uint4-channel", "int4-i32", "uint4-i16"])
@pytest.mark.parametrize("method", METHODS)
def test_scales_are_not_below_the_least(method: str, name: str) -> None:
    weight, least = gaussian(1, 6, 72), torch.linspace(0.5, 3, 6)
    made = quantized(method, ALL[name], weight, curvature(inputs(200, 72)), least=least)
    check_contract(made, ALL[name], weight)
    assert (made.finest_scale() >= least * 2 ** (-1 / 32)).all()


def test_schemes_say_what_they_are() -> None:
    assert scheme.parse("int4", "32").describe() == "int4 in groups of 32"
    assert scheme.parse("uint4", "32").bits == 4 + (16 + 4) / 32
    assert scheme.parse("int4", "32").bits == 4.25
    assert scheme.parse("int4").bits == 4
    assert SCHEMES["nvfp4"].bits == 4.5
    assert SCHEMES["mxfp4"].bits == 4.25
    with pytest.raises(OptionError, match="mxfp4 has groups of 32 by itself; leave out"):
        scheme.parse("mxfp4", "16")
    with pytest.raises(OptionError, match=r"e8m0 has no zero, .*; give"):
        scheme.parse("e8m0")
    with pytest.raises(OptionError, match=r"do not fit int8 kernels, .*; use"):
        scheme.parse("int8", "32", integer=True)
