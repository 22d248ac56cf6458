"""Outlier channel splitting: copies sum to what is split, reach farther, cost what they take, and fold into int8."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
import torch
from every_site import computed_at_every_call, feeds, network, quantized, sqnr_db
from schemes import gaussian
from torch import Tensor

from ptq import scheme
from ptq.errors import OptionError
from ptq.ladder import Ladder
from ptq.method import Request
from ptq.methods.ocs import EXPANDED, Ocs, share, split_columns
from ptq.methods.rtn import Rtn
from ptq.recipe import Recipe
from ptq.scheme import Scheme
from ptq.solve import Curvature


def ladder(how: Scheme, weight: Tensor, *, portable: bool = False, least: Tensor | None = None) -> Ladder:
    curve = Curvature.unknown(len(weight), weight.shape[-1])
    return Ocs.of(Request(how, portable=portable)).ladder(weight, curve, least_scale=least)


def outlying(rows: int, columns: int, outlier: float = 8.0) -> Tensor:
    """A weight `(1, rows, columns)` with one column far above the others."""
    weight = gaussian(1, rows, columns)
    weight[0, :, 3] *= outlier
    return weight


def test_two_copies_are_the_halves_of_the_paper() -> None:
    """`round((x - 1/2) / 2) + round((x + 1/2) / 2) = round(x)`, ties upwards, on sixteenths of a step."""

    def to_nearest(x: Fraction) -> int:
        return math.floor(x + Fraction(1, 2))

    for sixteenths in range(-16 * 15, 16 * 15 + 1):
        x = Fraction(sixteenths, 16)
        halves = [to_nearest((x - Fraction(1, 2)) / 2), to_nearest((x + Fraction(1, 2)) / 2)]
        integer = to_nearest(x)
        assert sum(halves) == integer
        made = share(torch.tensor([[float(integer)]]), torch.tensor([2]))
        assert [int(each) for each in made] == halves


@pytest.mark.parametrize("most", [1, 2, 3, 4])
def test_copies_sum_to_what_is_split_and_stay_in_the_format(most: int) -> None:
    copies = torch.arange(1, most + 1)
    integers = torch.arange(-7 * most, 7 * most + 1.0)[:, None].clamp(-7 * copies, 7 * copies)
    made = share(integers, copies)
    total = torch.zeros_like(integers)
    for k, values in enumerate(made):
        assert values.abs().max() <= 7
        total[:, copies > k] += values
    assert torch.equal(total, integers)


def test_the_largest_weight_left_is_split_next() -> None:
    """One split at a time, as the paper goes, but a column's weight is shared evenly between its copies."""
    largest = torch.tensor([1.0, 9.0, 2.0, 4.0, 0.5, 3.5, 0.0, 2.5])
    copies, step_by_step = torch.ones(8, dtype=torch.int64), []
    for _ in range(8):
        left = torch.where(copies < 4, largest / copies, -1.0)
        copies[left.argmax()] += 1
        step_by_step.append(copies.clone())
    counts = sorted({math.ceil(part * 8) for part in EXPANDED})
    expected = [step_by_step[count - 1] for count in counts]
    assert all(torch.equal(*pair) for pair in zip(split_columns(largest, 4), expected, strict=True))
    assert step_by_step[-1].tolist() == [1, 4, 2, 3, 1, 2, 1, 2]
    assert max(int(each.max()) for each in split_columns(largest, 2)) == 2


@pytest.mark.parametrize("name", ["int2", "int3", "int4", "int5", "int6", "int7"])
@pytest.mark.parametrize("group", ["channel", "tensor"])
@pytest.mark.parametrize("portable", [False, True])
def test_every_rung_is_one_scale_times_integers_of_int8(name: str, group: str, *, portable: bool) -> None:
    how, weight = scheme.parse(name, group), outlying(6, 72).reshape(2, 3, 72)
    if portable and name == "int7":
        with pytest.raises(OptionError, match="adds two int7, up to 126, and int8 kernels take integers up to 63"):
            ladder(how, weight, portable=True)
        return
    made, before = ladder(how, weight, portable=portable), weight.clone()
    assert made.whole
    assert torch.equal(weight, before)
    splits = sorted({math.ceil(part * 72) for part in EXPANDED})
    assert len(made.rungs) == 1 + len(splits)
    for rung, extra in enumerate([0, *splits]):
        picked = made.pick(made.all_on(rung))
        assert picked.fits_int8
        assert picked.integers().abs().max() <= (63 if portable else 127)
        assert all(term.values.abs().max() <= how.format.max for term in picked.terms)
        assert sum(term.values.shape[1] for term in picked.terms) == 72 + extra
        assert made.row_bits(rung) == how.format.bits * (72 + extra)
        residual = weight.reshape(6, 72) - picked.dequantize()
        assert torch.allclose(made.error[rung], residual.square().sum(1), rtol=1e-3)
        if group == "tensor":
            assert (picked.finest_scale() == picked.finest_scale()[0]).all()


def test_no_split_is_rounding_to_nearest() -> None:
    how, weight = scheme.parse("int4"), outlying(6, 72)
    plain = Rtn.of(Request(how)).ladder(weight, Curvature.unknown(1, 72))
    assert torch.equal(
        ladder(how, weight).pick(torch.zeros(6).long()).dequantize(), plain.pick(torch.zeros(6).long()).dequantize()
    )


@pytest.mark.parametrize("group", ["channel", "tensor"])
def test_one_split_of_an_outlier_halves_the_step(group: str) -> None:
    """Two copies: steps of half the size, so about a quarter of the error, for one column more of 64."""
    made = ladder(scheme.parse("int6", group), outlying(32, 64, outlier=16.0))
    first = made.rungs[1]
    assert first[1].columns is not None
    assert first[1].columns.tolist() == [3]
    assert float(made.error[1].sum() / made.error[0].sum()) < 0.35


def test_scales_are_not_below_the_least() -> None:
    weight, least = outlying(6, 72), torch.linspace(0.5, 3, 6)
    made = ladder(scheme.parse("int4"), weight, least=least)
    for rung in range(len(made.rungs)):
        assert (made.pick(made.all_on(rung)).finest_scale() >= least * 2 ** (-1 / 32)).all()


def test_bits_decide_how_much_is_split(monkeypatch: pytest.MonkeyPatch) -> None:
    """All sites of a network, in int8 kernels; the file computes with what was meant, folded when it is loaded."""
    stored = []
    for bits in (5.0, 6.0):
        made = quantized(monkeypatch, network(), feeds(16), method="ocs", weights="int4", bits=bits)
        split = [how.weight for how in made.sites.values() if how.weight and how.weight.terms[0].format.name == "int4"]
        weights = sum(math.prod(weight.shape) for weight in split)
        stored.append(sum(weight.storage_bits for weight in split) / weights)
        assert bits - 0.3 < stored[-1] <= bits
        for layer in made.result.report.layers:
            counted = made.sites[layer.site].weight
            assert counted is not None
            assert 0 <= 8 * layer.bytes - counted.storage_bits <= 32 + 16 * len(counted.terms), "a unit, whole bytes"
        assert all(layer.integer for layer in made.result.report.computing if layer.op in ("Conv", "Gemm", "MatMul"))
        assert not computed_at_every_call(made.optimized())
        reference = made.reference()
        outputs = made.outputs()
        assert all(sqnr_db(reference[name], got) > 25 for name, got in outputs.items())
    assert stored[0] < stored[1]


def test_weights_alone_are_split_without_data(monkeypatch: pytest.MonkeyPatch) -> None:
    made = quantized(monkeypatch, network(), method="ocs", weights="int3", bits=5.5)
    reference, outputs = made.reference(), made.outputs()
    assert max(len(how.weight.terms) for how in made.sites.values() if how.weight) > 1
    assert not computed_at_every_call(made.optimized())
    assert all(sqnr_db(reference[name], got) > 25 for name, got in outputs.items())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"weights": "int8"}, "adds two int8, up to 254, and int8 kernels take integers up to 127; give fewer bits"),
        ({"weights": "uint4"}, "splits columns of int2 to int7 .*, not uint4; use --method gptq"),
        ({"weights": "int4", "group": "32"}, "not int4 in groups of 32; use"),
        ({"weights": "int4", "points": 2}, "--points is read by --method multipoint, not by --method ocs"),
        ({"weights": "int4", "per": "channel"}, "--per is read by --method multipoint, not by --method ocs"),
        (
            {"weights": "int8", "target": "tensorrt"},
            "takes weights of one format, --method ocs gives them several",
        ),
    ],
)
def test_what_it_does_not_do_is_refused(options: dict[str, object], said: str) -> None:
    with pytest.raises(OptionError, match=said):
        Recipe.of({"method": "ocs", **options})


def test_first_and_last_layers_of_int8_are_not_split() -> None:
    eight = Ocs.of(Request(scheme.parse("int8"), options={"points": 1}))
    assert len(eight.ladder(gaussian(1, 4, 16), Curvature.unknown(1, 16)).rungs) == 1
