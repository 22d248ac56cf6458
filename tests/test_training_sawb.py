"""SAWB against vectors 2.F and 2.G of papers.md, section 2.10."""

from __future__ import annotations

import math

import pytest
import torch

from ptq.errors import OptionError
from ptq.training.sawb import COEFFICIENTS, Sawb, clip

NORMAL = {
    "luq": 2.3658083582,
    "ibm4": 2.4670776217,
    "ibm403": 2.4364487335,
    "ibm2": 1.4731662665,
    "ibm3": 2.0099796069,
    "ibm5": 2.8674317866,
    "ibm8": 3.8021249895,
}
"""The clips of a standard normal distribution, E[x^2] = 1 and E|x| = sqrt(2 / pi)."""

SOME = [-1.5, -0.75, -0.2, 0, 0.1, 0.4, 0.9, 2]


def with_moments(square: float, magnitude: float) -> torch.Tensor:
    """Two numbers with exactly these two moments."""
    spread = math.sqrt(square - magnitude**2)
    return torch.tensor([magnitude + spread, spread - magnitude], dtype=torch.float64)


@pytest.mark.parametrize("source", NORMAL)
def test_vector_f_clips_of_a_normal_distribution(source: str) -> None:
    got = float(clip(with_moments(1, math.sqrt(2 / math.pi)), source))
    assert got == pytest.approx(NORMAL[source], abs=6e-11)


@pytest.mark.parametrize(
    ("source", "clipped", "divisor", "integers"),
    [
        ("ibm4", 3.1865540488, 7, [-3, -2, 0, 0, 0, 1, 2, 4]),
        ("luq", 3.0514080434, 8, [-4, -2, -1, 0, 0, 1, 2, 5]),
    ],
)
def test_vector_g(source: str, clipped: float, divisor: int, integers: list[int]) -> None:
    """LUQ's published code divides twice the clip by 16; no format has its 17 integers, but int5 holds them."""
    x = torch.tensor(SOME, dtype=torch.float64)
    assert float(clip(x, source)) == pytest.approx(clipped, abs=6e-11)
    assert (x / (clip(x, source) / divisor)).round().tolist() == integers
    if divisor == 7:
        rule = Sawb("int4", source)
        assert float(rule.step(x)) == pytest.approx(0.4552220070, abs=6e-11)
        assert torch.equal(rule(x), torch.tensor(integers, dtype=torch.float64) * rule.step(x))


def test_what_lies_beyond_the_clip_is_clipped() -> None:
    x = torch.linspace(-3, 3, 1001)
    rounded = Sawb()(x)
    assert float(rounded.max()) == pytest.approx(float(clip(x, "ibm403")), rel=1e-6)
    assert len(rounded.unique()) == 15


@pytest.mark.parametrize("source", COEFFICIENTS)
def test_a_clip_is_never_below_the_mean_magnitude(source: str) -> None:
    """Where all magnitudes are equal both moments are one, and the regression comes to c1 - c2 of it."""
    equal = torch.tensor([0.5, -0.5, 0.5], dtype=torch.float64)
    c1, c2 = COEFFICIENTS[source]
    assert float(clip(equal, source)) == pytest.approx(0.5 * max(c1 - c2, 1), rel=1e-12)
    for zeros in (torch.zeros(3, 4), torch.zeros(0), torch.zeros(())):
        assert float(clip(zeros, source)) == 0
        assert torch.equal(Sawb("int4", source)(zeros), zeros)


def test_numbers_that_are_none_are_not_hidden() -> None:
    assert bool(Sawb()(torch.tensor([1.0, float("nan")])).isnan().all())


def test_an_unknown_source() -> None:
    with pytest.raises(OptionError, match=r"unknown source of SAWB coefficients 'ibm43'; did you mean 'ibm403'\?"):
        clip(torch.ones(1), "ibm43")
