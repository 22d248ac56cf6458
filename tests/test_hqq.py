"""Half-quadratic quantization: its threshold, the norm it lowers, and what that means for weights of two kinds."""

from __future__ import annotations

import pytest
import torch
from every_site import network, quantized, sqnr_db
from schemes import ALL, gaussian
from torch import Tensor

from ptq.errors import OptionError
from ptq.method import Request
from ptq.methods.hqq import Hqq, P, shrunk
from ptq.methods.rtn import Rtn
from ptq.qtensor import QTensor
from ptq.recipe import Recipe
from ptq.solve import Curvature

NAMES = ("uint4-32", "uint4-64", "uint2-16", "uint8-channel", "uint4-tensor", "int4-32", "int4-channel", "int3-tensor")


def heavy_tailed(rows: int, columns: int) -> Tensor:
    """Weights `(1, rows, columns)` of which a few are much larger than most, as in trained networks."""
    return gaussian(1, rows, columns) * (1 + gaussian(1, rows, columns, seed=5).abs().pow(3))


def made(method: type[Rtn | Hqq], name: str, weight: Tensor) -> QTensor:
    ladder = method.of(Request(ALL[name])).ladder(weight, Curvature.unknown(len(weight), weight.shape[-1]))
    return ladder.pick(ladder.all_on(0))


def norm(weight: Tensor, quantized: QTensor) -> Tensor:
    """By row."""
    return (weight.flatten(0, 1) - quantized.dequantize()).abs().pow(P).sum(1)


def test_the_threshold_is_that_of_the_norm() -> None:
    """|x| - |x|^(p - 1) / beta, and 0 below it; in the limit of a stiff spring nothing is left out."""
    x = torch.tensor([1.0, 0.1, 0.0, -2.0, 16.0])
    expected = [1 - 1 / 4, 0.0, 0.0, -(2 - 2**-0.3 / 4), 16 - 16**-0.3 / 4]
    assert shrunk(x, 4.0).tolist() == pytest.approx(expected)
    assert torch.allclose(shrunk(x, 1e9), x, atol=1e-6)


@pytest.mark.parametrize("name", NAMES)
def test_the_norm_is_below_that_of_least_squares(name: str) -> None:
    weight = heavy_tailed(24, 256)
    ours, least_squares = norm(weight, made(Hqq, name, weight)), norm(weight, made(Rtn, name, weight))
    assert ours.sum() <= (1.0 if "8" in name else 0.995) * least_squares.sum()
    if name[0] == "u" and "tensor" not in name:  # the others' scales come from another search
        assert (ours <= least_squares * (1 + 1e-5)).all()


@pytest.mark.parametrize("name", ["uint4-32", "int4-channel", "uint2-32"])
def test_most_errors_are_smaller_and_few_are_larger(name: str) -> None:
    weight = heavy_tailed(24, 256)
    ours, least_squares = ((made(method, name, weight).dequantize() - weight[0]).abs() for method in (Hqq, Rtn))
    assert ours.median() < 0.97 * least_squares.median()
    assert ours.square().sum() > least_squares.square().sum()


@pytest.mark.parametrize("name", ["uint4-32", "int4-channel", "int3-tensor"])
def test_scales_do_not_depend_on_how_many_rows_are_looked_at_at_once(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = heavy_tailed(300, 64)
    whole = made(Hqq, name, weight).terms[0]
    monkeypatch.setattr("ptq.chunks._MOST_ELEMENTS", 64 * 64)
    parts = made(Hqq, name, weight).terms[0]
    assert torch.equal(parts.values, whole.values)
    assert torch.equal(parts.scale, whole.scale)


def test_scales_that_are_not_free_are_refused() -> None:
    with pytest.raises(OptionError, match="those of s2fp8 per tensor follow from its largest weight; use --method rtn"):
        Recipe(method="hqq", weights="s2fp8")


def test_files_hold_what_was_found(monkeypatch: pytest.MonkeyPatch) -> None:
    done = quantized(monkeypatch, network(), method="hqq", weights="uint4", group="32")
    reference, outputs = done.reference(), done.outputs()
    assert all(sqnr_db(reference[name], got) > 25 for name, got in outputs.items())
