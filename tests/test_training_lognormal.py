"""Lognormal gradients against the vectors of papers.md, section 4.10, and the law of pruning."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.optimize import brentq
from scipy.special import erf
from torch import Tensor

from ptq import formats
from ptq.errors import OptionError
from ptq.rounding import round_to
from ptq.training.floats import Fields, nearest_floats
from ptq.training.lognormal import BOUNDS, SIX_BITS, Lognormal, Moments, log_threshold

VECTORS = [(1.0, 0.5, 2.40079119), (1.0, 0.8, 7.82226523), (2.0, 0.8, 16.98887220), (3.0, 0.9, 157.10469180)]


def double(number: float) -> Tensor:
    return torch.tensor(number, dtype=torch.float64)


def sample(sigma: float, count: int = 1_000_000, mu: float = -16.0) -> Tensor:
    return torch.randn(count).mul(sigma).add(mu).exp() * torch.randn(count).sign()


@pytest.mark.parametrize(("sigma", "sparsity", "expected"), VECTORS)
def test_the_vectors(sigma: float, sparsity: float, expected: float) -> None:
    assert float(log_threshold(double(sigma), sparsity).exp()) == pytest.approx(expected, abs=6e-9)
    moments = Moments(double(-3.0), double(sigma))
    assert float(Lognormal(sparsity).threshold(moments)) == pytest.approx(expected * math.exp(-3), rel=4e-4)


@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.95])
def test_the_equation_as_it_is_printed(sparsity: float) -> None:
    """By another solver, where its large numbers allow."""
    for sigma in (0.5, 1.0, 2.0, 3.0):
        growth, width = math.exp(sigma**2 / 2), math.sqrt(2) * sigma

        def lacking(log_a: float, growth: float = growth, width: float = width, sigma: float = sigma) -> float:
            a, place = math.exp(log_a), log_a / width
            printed = 0.5 + (growth * erf(sigma / math.sqrt(2) - place) + a * erf(place) - growth) / (2 * a)
            return printed - sparsity

        assert float(log_threshold(double(sigma), sparsity)) == pytest.approx(brentq(lacking, -9, 20), abs=1e-9)


@pytest.mark.parametrize(("sparsity", "tolerance"), [(0.1, 2e-3), (0.5, 4e-4), (0.8, 4e-4), (0.99, 4e-4)])
def test_what_is_lost_between_the_points_of_the_grid(sparsity: float, tolerance: float) -> None:
    sigma = torch.linspace(0, 10, 2003, dtype=torch.float64)
    got = Lognormal(sparsity).threshold(Moments(torch.zeros_like(sigma), sigma)).log()
    assert float((got - log_threshold(sigma, sparsity)).abs().max()) < tolerance
    beyond = Lognormal(sparsity).threshold(Moments(double(0.0), double(50.0)))
    assert float(beyond.log()) == pytest.approx(float(got[-1]), abs=1e-3)


def test_moments() -> None:
    torch.manual_seed(0)
    x = sample(2.0, 10_000)
    logs = x.double().abs().log()
    moments = Moments.of(torch.cat([x, torch.zeros(500)]))
    assert float(moments.mu) == pytest.approx(float(logs.mean()), rel=1e-6)
    assert float(moments.sigma) == pytest.approx(float(logs.std(correction=0)), rel=1e-5)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0, 3.0])
@pytest.mark.parametrize("sparsity", [0.5, 0.8, 0.95])
def test_as_many_go_to_zero_as_are_to(sigma: float, sparsity: float) -> None:
    """Within 5 deviations, and 2e-3 for the moments of the sample and the grid."""
    torch.manual_seed(1)
    x, rule = sample(sigma), Lognormal(sparsity)
    pruned = rule.pruned(x, Moments.of(x))
    noise = 5 * math.sqrt(sparsity * (1 - sparsity) / len(x))
    assert float((pruned == 0).double().mean()) == pytest.approx(sparsity, abs=noise + 2e-3)


@pytest.mark.parametrize("sigma", [0.5, 1.0, 3.0])
def test_pruning_keeps_the_mean(sigma: float) -> None:
    """Of either sign, and of numbers of every size; each error has the variance |g| (tau - |g|)."""
    torch.manual_seed(2)
    x, rule = sample(sigma), Lognormal()
    moments = Moments.of(x)
    tau, error = rule.threshold(moments).double(), (rule.pruned(x, moments) - x).double()
    magnitude = x.abs().double()
    assert not bool(error[magnitude >= tau].any())
    variance = (magnitude * (tau - magnitude)).clamp_min(0)
    octave = (magnitude / tau).log2().floor()
    octaves = [chosen for each in octave.unique() if int((chosen := octave == each).sum()) > 1000]
    for chosen in [x > 0, x < 0, *octaves]:
        bound = 5 * math.sqrt(float(variance[chosen].sum())) + 1e-6 * float(magnitude[chosen].sum())
        assert abs(float(error[chosen].sum())) <= bound


@pytest.mark.parametrize("place", range(len(SIX_BITS)))
def test_rounding_is_that_of_the_table(place: int) -> None:
    """Numbers, ties, and what is beside them; all sizes; both zeros and what is no number."""
    fmt = SIX_BITS[place]
    assert fmt.bits == 6
    assert fmt == formats.FORMATS.get(fmt.name, fmt)
    torch.manual_seed(3)
    values = torch.tensor(fmt.values)
    halfway = (values[1:] + values[:-1]) / 2
    sides = [torch.nextafter(halfway, torch.tensor(to)) for to in (-math.inf, math.inf)]
    x = torch.cat([values, halfway, *sides, sample(3.0, 100_000, 0.0), torch.tensor([0.0, -0.0, 1e-45, 3e38])])
    got = nearest_floats(Fields.of(SIX_BITS, x.device).chosen(torch.tensor(place)), x)
    expected = round_to(fmt, x)
    assert torch.equal(got.view(torch.int32), expected.view(torch.int32))
    broken = nearest_floats(Fields.of([fmt], x.device).chosen(torch.tensor(0)), torch.tensor([math.nan, 1.0]))
    assert broken[0].isnan()
    assert broken[1] == 1


@pytest.mark.parametrize("place", range(len(SIX_BITS)))
def test_the_deviation_chooses_the_format(place: int) -> None:
    octaves = [0, *BOUNDS, 3.0][place : place + 2]
    torch.manual_seed(4)
    x = sample(sum(octaves) / 2 * math.log(2), 100_000)
    torch.manual_seed(5)
    pruned = Lognormal().pruned(x, Moments.of(x))
    torch.manual_seed(5)
    got = Lognormal()(x)
    scale = pruned.abs().max() / SIX_BITS[place].max
    assert torch.equal(got, round_to(SIX_BITS[place], pruned / scale) * scale)
    assert float(got.abs().max()) == pytest.approx(float(pruned.abs().max()), rel=1e-6)


def test_magnitudes_that_are_all_equal() -> None:
    """`a` is 5 without deviation: one in five becomes five times as large."""
    torch.manual_seed(6)
    drawn = Lognormal(0.8)(torch.full((100_000,), 3.0))
    assert float(drawn.max()) == pytest.approx(15, rel=1e-5)
    assert len(drawn.unique()) == 2
    assert float(drawn.double().mean()) == pytest.approx(3, abs=5 * 6 / math.sqrt(100_000))


@pytest.mark.parametrize("sparsity", [0.0, 1.0, -1.0])
def test_a_sparsity_that_is_none(sparsity: float) -> None:
    with pytest.raises(OptionError, match="the sparsity must be between 0 and 1, got"):
        Lognormal(sparsity)
