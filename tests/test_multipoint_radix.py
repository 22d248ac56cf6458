"""Radix points: the number system, error feedback, and weights that are not nice."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from ptq import formats, scales
from ptq.errors import OptionError
from ptq.formats.integer import Integers
from ptq.method import Request
from ptq.methods.multipoint import Multipoint
from ptq.methods.multipoint.radix import Radix
from ptq.scheme import Scheme
from ptq.solve import Curvature
from ptq.solve.feedback import nearest_rows
from ptq.solve.roundings import HESSIAN, NEAREST
from ptq.solve.search import scale_grid, solve

FORMATS = ("int4", "int3", "int2")


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs(samples: int, columns: int) -> Tensor:
    """Correlated inputs `(samples, columns)` with a mean."""
    return gaussian(samples, columns, seed=1) @ gaussian(columns, columns, seed=2) / columns**0.5 + 0.5


def curvature(x: Tensor) -> Curvature:
    return Curvature.of((x.double().T @ x.double() / len(x))[None], len(x))


def decibels(weight: Tensor, approximation: Tensor) -> float:
    return float(10 * torch.log10((weight**2).sum() / ((weight - approximation) ** 2).sum()))


def systems(base: str, **options: Any) -> dict[str, int]:
    """The limit of every sum of points that a row of this base can be."""
    method = Multipoint.of(Request(Scheme(formats.get(base)), portable=options.pop("portable", False), options=options))
    return {"+".join(fmt.name for fmt in sums): radix.limit for sums, radix in method.sums().items()}


@pytest.mark.parametrize(
    ("name", "limits"), [("int4", [7, 112]), ("int3", [3, 24]), ("int2", [1, 4, 13, 40, 121]), ("int8", [127])]
)
def test_limits_of_the_base_formats(name: str, limits: list[int]) -> None:
    base = Multipoint(Scheme(formats.get(name)))
    assert [radix.limit for radix in base.sums().values()] == limits
    assert base.most_points == len(limits)
    assert Multipoint(Scheme(formats.get(name)), last=formats.get("int2")).most_points == len(limits)


def test_a_wider_only_and_a_narrower_last_point_give_sizes_in_between() -> None:
    assert systems("int4") == {"int4": 7, "int5": 15, "int4+int2": 22, "int4+int4": 112}
    assert systems("int3") == {"int3": 3, "int4": 7, "int3+int2": 10, "int3+int3": 24, "int3+int3+int2": 73}
    assert list(systems("int2").values()) == [1, 3, 4, 13, 40, 121]
    assert systems("int8") == {"int8": 127}
    assert systems("int4", points=1) == {"int4": 7, "int4+int4": 112}


@pytest.mark.parametrize(("option", "value"), [("bits", 0.1), ("tolerance", 0.1)])
def test_the_only_point_of_a_row_may_be_narrower_where_bits_are_few(option: str, value: float) -> None:
    def narrowed(base: str) -> dict[str, int]:
        bits = formats.get(base).bits if option == "bits" else 0
        return systems(base, **{option: bits + value})

    assert narrowed("int4") == {"int3": 3, **systems("int4")}
    assert narrowed("int8") == {"int7": 63, "int8": 127}
    assert narrowed("int3") == systems("int3"), "rows of a single point of int2 do not pay"
    assert systems("int4", bits=4.25) == systems("int4")


@pytest.mark.parametrize("name", [*FORMATS, "int8"])
def test_portable_weights_stay_below_64(name: str) -> None:
    assert max(systems(name, portable=True).values()) <= 63
    assert systems("int4", portable=True) == {"int4": 7, "int5": 15, "int4+int2": 22, "int4+int4": 63}


@pytest.mark.parametrize("portable", [False, True])
@pytest.mark.parametrize("name", FORMATS)
def test_digits_give_every_integer_back(name: str, *, portable: bool) -> None:
    method = Multipoint(Scheme(formats.get(name)), portable=portable, last=formats.get("int2"))
    for sums, radix in method.sums().items():
        integers = torch.arange(-radix.limit, radix.limit + 1).float()
        planes = radix.split(integers)
        for plane, fmt in zip(planes, sums, strict=True):
            assert set(plane.tolist()) <= set(fmt.values)
        assert torch.equal(sum(plane * worth for plane, worth in zip(planes, radix.worths, strict=True)), integers)


def test_digits_refuse_what_does_not_fit() -> None:
    with pytest.raises(OptionError, match="add points"):
        Radix.of([formats.get("int4")] * 2).split(torch.tensor([113.0]))


@pytest.mark.parametrize(("limit", "least", "most"), [(112, 40.9, 41.9), (127, 41.9, 42.9)])
def test_gaussian_rows_at_the_known_precision(limit: int, least: float, most: float) -> None:
    """Two 4-bit points reach 41.4 dB on Gaussian rows, int8 42.4 dB."""
    weight = gaussian(1, 64, 512)
    plain = solve(weight, Integers.up_to(limit), Curvature.unknown(1, 512), NEAREST)
    nearest = (
        nearest_rows(weight, weight.abs().amax(-1, keepdim=True) / limit, Integers.up_to(limit))
        * (weight.abs().amax(-1) / limit)[..., None]
    )
    assert least <= decibels(weight, nearest) <= most
    assert decibels(weight, plain.values * plain.scale) >= decibels(weight, nearest) - 0.2  # scales have 8 bits


@pytest.mark.parametrize("limit", [1, 7, 112])
def test_feedback_beats_nearest_on_the_output(limit: int) -> None:
    x, weight = inputs(4000, 48), gaussian(1, 24, 48)
    fed = solve(weight, Integers.up_to(limit), curvature(x), HESSIAN)
    near = solve(weight, Integers.up_to(limit), curvature(x), NEAREST)
    errors = [float(((weight - found.values * found.scale)[0] @ x.T).square().sum()) for found in (fed, near)]
    assert errors[0] < 0.8 * errors[1]


def test_the_error_is_that_of_the_result() -> None:
    x, weight = inputs(300, 20), gaussian(1, 8, 20)
    curve = curvature(x)
    found = solve(weight, Integers.up_to(7), curve, HESSIAN)
    again = curve.errors(curve.arranged(weight - found.values * found.scale))
    torch.testing.assert_close(found.error, again, rtol=1e-3, atol=1e-6)


def test_scales_are_stored_exactly_and_not_below_the_least() -> None:
    weight = gaussian(1, 8, 20)
    least = torch.full((1, 8, 1), 0.9)
    found = solve(
        weight,
        Integers.up_to(7),
        curvature(inputs(300, 20)),
        HESSIAN,
        scale_grid(weight, [7], curvature(inputs(300, 20)), least),
    )
    assert scales.storage_bits(found.scale) == 8 * 8
    assert (found.scale >= 0.9 * 2 ** (-1 / 32)).all()


def awkward() -> dict[str, tuple[Tensor, Tensor]]:
    """Weights and inputs that are ordinary in trained networks and hard on careless code."""
    weight, x = gaussian(1, 6, 16), inputs(400, 16)
    zero_row, constant_row = weight.clone(), weight.clone()
    zero_row[0, 2] = 0
    constant_row[0, 3] = 0.25
    dead, tiny, few = x.clone(), x * 1e-20, x[:2]
    dead[:, 5:9] = 0
    same = x[:, :1].expand(-1, 16)
    outlier = weight.clone()
    outlier[0, 1, 4] = 1e4
    return {
        "zero row": (zero_row, x),
        "all zero": (torch.zeros_like(weight), x),
        "constant row": (constant_row, x),
        "dead inputs": (weight, dead),
        "all dead": (weight, torch.zeros_like(x)),
        "one direction": (weight, same),
        "fewer samples than columns": (weight, few),
        "tiny inputs": (weight, tiny),
        "outlier": (outlier, x),
        "tiny weights": (weight * 1e-30, x),
        "one column": (weight[:, :, :1], x[:, :1]),
    }


@pytest.mark.parametrize("case", awkward())
@pytest.mark.parametrize("name", FORMATS)
def test_awkward_weights_and_inputs(case: str, name: str) -> None:
    weight, x = awkward()[case]
    ladder = Multipoint(Scheme(formats.get(name)), last=formats.get("int2")).ladder(weight, curvature(x))
    assert ladder.error.isfinite().all()
    for rung in (*(ladder.all_on(n) for n in range(len(ladder.rungs))), torch.arange(6) % len(ladder.rungs)):
        made = ladder.pick(rung)
        assert made.integer_ratios() is not None
        dense = made.dequantize()
        assert dense.isfinite().all()
        assert (dense[weight[0].abs().amax(1) == 0] == 0).all()
    finest = (weight[0] - ladder.pick(ladder.all_on(99)).dequantize()).abs().amax(1)
    assert (finest <= 0.2 * weight[0].abs().amax(1)).all()


def test_groups_are_quantized_apart() -> None:
    weight, x = gaussian(3, 2, 9), torch.stack([inputs(300, 9) * k for k in (1, 5, 0.1)])
    gram = x.double().transpose(1, 2) @ x.double() / 300
    together = solve(weight, Integers.up_to(7), Curvature.of(gram, 300), HESSIAN)
    for k in range(3):
        alone = solve(weight[k : k + 1], Integers.up_to(7), Curvature.of(gram[k : k + 1], 300), HESSIAN)
        assert torch.equal(together.values[k], alone.values[0])


def test_more_samples_damp_less() -> None:
    gram = (inputs(400, 16).double().T @ inputs(400, 16).double())[None] / 400
    few, many = Curvature.of(gram, 20), Curvature.of(gram, 200_000)
    assert few.moment.diagonal(dim1=1, dim2=2).sum() > many.moment.diagonal(dim1=1, dim2=2).sum()


@pytest.mark.parametrize("exponent", [-50, 50])
def test_the_unit_of_the_inputs_does_not_matter(exponent: int) -> None:
    """Squares of 2^50 times the other numbers do not fit into float32."""
    weight, x = gaussian(1, 4, 16), inputs(100, 16)
    plain = solve(weight, Integers.up_to(7), curvature(x), HESSIAN)
    scaled = solve(weight, Integers.up_to(7), curvature(x.double() * 2.0**exponent), HESSIAN)
    assert torch.equal(scaled.values, plain.values)
    assert torch.equal(scaled.scale, plain.scale)


def test_without_data_errors_are_squares() -> None:
    residual = gaussian(2, 4, 16)
    torch.testing.assert_close(Curvature.unknown(2, 16).errors(residual), residual.square().sum(-1))
