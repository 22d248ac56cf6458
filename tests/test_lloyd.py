"""Lloyd-Max formats: their numbers against the definition, and what multipoint makes of them."""

from __future__ import annotations

import math

import onnx
import pytest
import torch
from schemes import curvature, gaussian, inputs, members
from tiny_models import images

import ptq
from ptq import formats, scheme
from ptq.errors import OptionError
from ptq.formats import PORTABLE_MAX
from ptq.method import Request
from ptq.methods.multipoint import Multipoint
from ptq.solve import NEAREST, Curvature, one_term

LLOYD = [name for name in formats.FORMATS if name.startswith("lloyd")]


def optimal(count: int) -> list[float]:
    """The `count` numbers above a 0 that is kept, for which the density `exp(-x)` has the least squared error."""

    def mean(low: float, high: float) -> float:
        mass = math.exp(-low) - math.exp(-high)
        tail = 0.0 if math.isinf(high) else (high + 1) * math.exp(-high)
        return ((low + 1) * math.exp(-low) - tail) / mass

    numbers = [0.4 * (place + 1) for place in range(count)]
    for _ in range(5000):
        ends = [(low + high) / 2 for low, high in zip([0.0, *numbers], numbers, strict=False)]
        numbers = [mean(low, high) for low, high in zip(ends, [*ends[1:], math.inf], strict=True)]
    return numbers


@pytest.mark.parametrize("name", LLOYD)
def test_the_numbers_are_those_of_least_error_for_the_laplace_distribution(name: str) -> None:
    fmt = formats.get(name)
    assert len(fmt.values) == 2**fmt.bits
    below, above = (optimal(2 ** (fmt.bits - 1) - less) for less in (0, 1))
    steps = PORTABLE_MAX / below[-1]
    wanted = [*(-round(steps * number) for number in reversed(below)), 0, *(round(steps * number) for number in above)]
    assert list(fmt.values) == wanted


@pytest.mark.parametrize("name", LLOYD[1:])
def test_long_tails_have_less_error_than_with_even_steps(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    weight = gaussian(1, 32, 512) * torch.empty(1, 32, 512).exponential_(generator=generator).sqrt()
    errors = []
    for each in (name, f"int{formats.get(name).bits}"):
        ladder = one_term(weight, scheme.parse(each), Curvature.unknown(1, 512), NEAREST)
        errors.append(float(ladder.error.double().sum()))
    assert errors[0] < 0.75 * errors[1]


@pytest.mark.parametrize(
    ("name", "options", "mixes"),
    [
        ("lloyd4", {"bits": 4.1}, ["lloyd3", "lloyd4", "lloyd5", "int4+int2", "int4+int4"]),
        ("lloyd4", {}, ["lloyd4", "lloyd5", "int4+int2", "int4+int4"]),
        ("lloyd4", {"points": 2}, ["lloyd4", "int4+int4"]),
    ],
)
def test_an_only_point_is_of_lloyds_numbers_and_several_are_digits(
    name: str, options: dict[str, float], mixes: list[str]
) -> None:
    method = Multipoint.of(Request(scheme.parse(name), has_data=True, options=options))
    assert ["+".join(fmt.name for fmt in mix) for mix in method.sums()] == mixes
    weight = gaussian(1, 12, 72)
    ladder = method.ladder(weight, curvature(inputs(300, 72)))
    error = ladder.error.double().sum(1)
    assert (error.diff() < 0).all(), error
    for rung in range(len(mixes)):
        made = ladder.pick(ladder.all_on(rung))
        assert made.fits_int8
        assert all(members(term.values, term.format) for term in made.terms)
    mixed = ladder.pick(torch.arange(12) % len(mixes))
    assert mixed.fits_int8
    assert set(mixed.mixes) == set(mixes)


@pytest.mark.parametrize("name", ["lloyd3", "lloyd4"])
def test_with_one_scale_a_tensor_points_have_integer_ratios_too(name: str) -> None:
    method = Multipoint.of(Request(scheme.parse(name, "tensor"), options={"bits": 4.5}))
    ladder = method.ladder(gaussian(1, 12, 72), Curvature.unknown(1, 72))
    several = [rung for rung, points in enumerate(ladder.rungs) if len(points) > 1]
    assert len(several) > 1
    for rung in range(len(ladder.rungs)):
        assert ladder.pick(ladder.all_on(rung)).fits_int8
    digits = {float(scale) for rung in several for scale in ladder.rungs[rung][0].scale}
    assert len(digits) == 1
    mixed = ladder.pick(torch.arange(12) % len(ladder.rungs))
    assert mixed.fits_int8
    assert all(
        (term.scale == term.scale[0]).all() for term in mixed.terms if term.format in {method.base, method.digits}
    )


def test_the_file_computes_with_them_in_int8(convolutions: onnx.ModelProto) -> None:
    made = ptq.quantize(convolutions, {"image": images(16)}, weights="lloyd4", bits=6.0)
    assert all(layer.integer for layer in made.report.layers)
    assert {term for layer in made.report.layers for mix in layer.mixes for term in mix.split("+")} & set(LLOYD)
    parity = made.report.file.parity_db
    assert parity is not None
    assert parity > 50


def test_sums_of_other_numbers_are_refused() -> None:
    with pytest.raises(OptionError, match="multipoint sums points of integers, not of nf4"):
        Multipoint.of(Request(scheme.parse("nf4"), has_data=True))
