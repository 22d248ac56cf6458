"""The roundings of LUQ (arXiv:2112.10769) against the formulas and vectors of papers.md, sections 2.2 and 2.10."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from ptq import formats
from ptq.rounding import Rounding, nearest, round_to, stochastic

LEVELS = {"luq_fp4": 7, "luq_fp4_paper": 8}
"""How many powers of two there are: those that 4 bits hold, and those of the authors' code."""

UNIFORM = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
"""Every chance that is a multiple of 1e-4 is met exactly by as many of these."""


def double(numbers: list[float]) -> Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def drawn(name: str, x: Tensor) -> Tensor:
    """All outcomes for numbers `(n,)`, in their frequency, `(n, 10000)`."""
    return stochastic(formats.get(name), x[:, None].expand(-1, len(UNIFORM)), UNIFORM.expand(len(x), -1))


X = double([1.0, 0.3, 0.011, 0.004, -0.6, -0.0071, 0])
VECTORS = {
    "luq_fp4": (
        [(1, 0.5, 1), (0.5, 0.25, 0.2), (1, 0, 0.704), (1, 0, 0.256), (1, 0.5, 0.2), (1, 0, 0.4544), (0, 0, 0)],
        [0, 0.01, 5.0875e-5, 4.65e-5, 0.04, 6.05275e-5, 0],
        [1, 0.25, 0.015625, 0, -0.5, 0, 0],
    ),
    "luq_fp4_paper": (
        [(1, 0.5, 1), (0.5, 0.25, 0.2), (2, 1, 0.408), (1, 0, 0.512), (1, 0.5, 0.2), (1, 0, 0.9088), (0, 0, 0)],
        [0, 0.01, 1.47422e-5, 1.525e-5, 0.04, 5.0587e-6, 0],
        [1, 0.25, 0.0078125, 0.0078125, -0.5, -0.0078125, 0],
    ),
}
"""Of 2.A: the neighbours (in units of alpha below 0.02) and the chance of the upper; variances; what u = 0.5 gives."""


@pytest.mark.parametrize("name", VECTORS)
def test_vector_a(name: str) -> None:
    chances, variances, middle = VECTORS[name]
    alpha = 2.0 ** (1 - LEVELS[name])
    got = drawn(name, X / alpha) * alpha
    for x, row, (high, low, chance), variance in zip(X, got, chances, variances, strict=True):
        unit = alpha if abs(x) < 0.02 else 1.0
        assert set(row.abs().tolist()) <= {high * unit, low * unit}
        assert int((row.abs() == high * unit).sum()) == round(chance * 10_000) or x == 0
        assert float(row.mean()) == pytest.approx(float(x), rel=1e-12)
        assert float((row - x).square().mean()) == pytest.approx(variance, rel=2e-5, abs=1e-20)
    halves = torch.full_like(X, 0.5)
    assert (stochastic(formats.get(name), X / alpha, halves) * alpha).tolist() == middle


@pytest.mark.parametrize("name", LEVELS)
def test_stochastic_underflow(name: str) -> None:
    """T_alpha: below the smallest power its sign times 1 with the chance |x|."""
    x = torch.arange(0, 1, 0.0625, dtype=torch.float64)
    for sign in (1, -1):
        got = drawn(name, sign * x)
        assert set(got.unique().tolist()) == {0.0, float(sign)}
        assert (got == sign).sum(1).tolist() == (x * 10_000).round().tolist()


@pytest.mark.parametrize("name", LEVELS)
def test_logarithmic_stochastic_rounding_is_noise_and_the_nearest_power(name: str) -> None:
    """Vector 2.C in every octave: chances x / low - 1; and the authors' construction draws as often."""
    fmt = formats.get(name)
    for power in range(LEVELS[name] - 1):
        low = 2.0**power
        y = double([1.0, 1.2, 1.5, 1.9]) * low
        for sign in (1, -1):
            got = drawn(name, sign * y)
            assert set(got.unique().tolist()) == {sign * low, sign * 2 * low}
            assert (got.abs() > low).sum(1).tolist() == [0, 2000, 5000, 9000]
        noisy = y[:, None] + (UNIFORM - 0.5) * low
        published = nearest(fmt, away=True)(noisy).clamp_min(low)
        assert (published > low).sum(1).tolist() == [0, 2000, 5000, 9000]


def test_vector_b_the_nearest_power() -> None:
    """RDNP, equation 13; to the even code differs from it where two powers are equally near."""
    y, powers = double([1, 1.4999, 1.5, 2, 2.9999, 3, 5.9, 6]), [1, 1, 2, 2, 2, 4, 4, 8]
    for name in LEVELS:
        assert round_to(formats.get(name), y, Rounding.NEAREST_AWAY).tolist() == powers
        assert round_to(formats.get(name), -y, Rounding.NEAREST_AWAY).tolist() == [-power for power in powers]
    assert round_to(formats.get("luq_fp4"), y).tolist() == [1, 1, 2, 2, 2, 2, 4, 8]
    some = np.random.default_rng(0).uniform(1, 64, 10_000)
    got = round_to(formats.get("luq_fp4"), torch.from_numpy(some), Rounding.NEAREST_AWAY).numpy()
    np.testing.assert_array_equal(got, 2 ** np.floor(np.log2(4 / 3 * some)))
    np.testing.assert_array_equal(got, 2 ** np.rint(np.log2(some) + math.log2(4 / 3) - 0.5))


@pytest.mark.parametrize("name", ["luq_fp4", "luq_fp4_paper", "pot4", "fp4_e2m1", "fp8_e5m2", "nf4", "int4"])
def test_it_is_unbiased(name: str) -> None:
    """One draw for each of a million numbers of all sizes: the sum is off by at most 5 sigma, so is each octave's.

    The variances are (x - low) (high - x). Of the two neighbours always the nearer one would be off by hundreds.
    """
    fmt, count = formats.get(name), 1_000_000
    rng = np.random.default_rng(1)
    x = fmt.max * 2.0 ** rng.uniform(-12, 0, count) * rng.choice([-1, 1], count)
    got = round_to(fmt, torch.from_numpy(x), Rounding.STOCHASTIC, torch.Generator().manual_seed(2)).numpy()
    values = np.array(fmt.values)
    above = np.searchsorted(values, x).clip(1, len(values) - 1)
    variance = (x - values[above - 1]) * (values[above] - x)
    signed = np.sign(x) * (got - x)  # towards zero and away from it, which a bias of both signs would hide
    octave = np.floor(np.log2(fmt.max / np.abs(x))).astype(int)
    for chosen in (np.ones(count, bool), *(octave == each for each in range(12))):
        bound = 5 * np.sqrt(variance[chosen].sum())
        assert abs(signed[chosen].sum()) <= bound
        assert abs((got - x)[chosen].sum()) <= bound


def test_vector_g_integers_of_sawb() -> None:
    """Scales of IBM's clip at 4 bits, and of LUQ's code, which rounds to even."""
    x = double([-1.5, -0.75, -0.2, 0, 0.1, 0.4, 0.9, 2])
    assert round_to(formats.get("int4"), x / 0.4552220070).tolist() == [-3, -2, 0, 0, 0, 1, 2, 4]
    assert round_to(formats.get("int4"), x / 0.3814260054).tolist() == [-4, -2, -1, 0, 0, 1, 2, 5]
