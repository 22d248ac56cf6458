"""S2FP8 against the vectors of papers.md, section 3.7, ml_dtypes and its own laws."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ptq import formats
from ptq.formats.minifloat import SqueezedFormat
from ptq.rounding import round_to
from ptq.squeeze import Squeeze, truncate

FP8 = formats.get("fp8_e5m2")


def double(numbers: list[float]) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float64)


def test_the_base_format() -> None:
    """Vector 3.0."""
    x = double([1.1, 1.125, 1.3, 1.375, 0.3, 300, 1e-5, 7e-6, 2.0**-17, 1.0001 * 2.0**-17])
    expected = [1, 1, 1.25, 1.5, 0.3125, 320, 1.52587890625e-5, 0, 0, 2.0**-16]
    assert round_to(FP8, x).tolist() == expected


VECTORS = {
    "A": ([1e-3, 2e-3, -4e-3, 8e-3, 0], 10, 84.6578428466, [1e-3, 2e-3, -4e-3, 8e-3, 0]),
    "B": (
        [1e-8, -3e-7, 5e-6, 2e-5, -1e-4, 4e-10],
        1.9462001545,
        40.8605478861,
        [9.51546766e-9, -2.89062354e-7, 4.99341482e-6, 2.07539469e-5, -1e-4, 0],
    ),
    "C": (
        [1, 1.1, 0.9, 1.2, -0.95],
        65.7526882577,
        -2.2952192879,
        [1.00108189, 1.10071161, 0.900922532, 1.2, -0.949682703],
    ),
    "D": ([1e-12, 1, -1e3, 1e6, 1e-3], 0.6271458243, 2.5, [0, 1.09845432, -1065.44335, 1e6, 1.08274325e-3]),
}


@pytest.mark.parametrize("name", VECTORS)
def test_vectors(name: str) -> None:
    numbers, alpha, beta, expected = VECTORS[name]
    x = double(numbers)
    squeeze = Squeeze.of(x)
    np.testing.assert_allclose([squeeze.alpha, squeeze.beta], [alpha, beta], rtol=0, atol=6e-11)
    np.testing.assert_allclose(truncate(x), expected, rtol=1e-13 if name == "A" else 1e-8, atol=0)


def test_what_is_stored() -> None:
    """Y of vector 3.A, and FP8 of it in 3.B."""
    exact, coarse = (double(VECTORS[name][0]) for name in "AB")
    np.testing.assert_allclose(Squeeze.of(exact).forth(exact), [2.0**-15, 2.0**-5, -32, 32768, 0], rtol=1e-12)
    stored = round_to(FP8, Squeeze.of(coarse).forth(coarse))
    assert stored.tolist() == [4.8828125e-4, -0.375, 96, 1536, -32768, 0]


@pytest.mark.parametrize(("alpha", "percent"), [(0.5, 26.56), (1, 12.5), (2, 6.07), (5, 2.38)])
def test_the_bound_of_the_error(alpha: float, percent: float) -> None:
    """Vector 3.E: rounding down a tie of the least significand is the worst that happens above the least exponent."""
    x = torch.exp2(torch.linspace(-13, 15, 10001, dtype=torch.float64) / alpha)
    squeeze = Squeeze(double([alpha])[0], double([0])[0])
    ratio = x / squeeze.back(round_to(FP8, squeeze.forth(x)))
    worst = 100 * float(ratio.maximum(1 / ratio).max() - 1)
    assert 0.98 * percent < worst <= percent + 0.005


def test_a_wide_tensor() -> None:
    """Vector 3.F."""
    rng = np.random.default_rng(7)
    normal, sign = rng.standard_normal(100_000), rng.standard_normal(100_000)
    x = torch.from_numpy(np.exp(2 * normal) * 1e-7 * np.sign(sign))
    squeeze = Squeeze.of(x)
    np.testing.assert_allclose([squeeze.alpha, squeeze.beta], [1.279520, 29.758212], rtol=0, atol=6e-7)
    for rounded, zeroed, distance in ((truncate(x), 0.0, 0.038791), (round_to(FP8, x), 0.985060, 0.302002)):
        assert float((rounded == 0).double().mean()) == pytest.approx(zeroed, abs=1e-9)
        assert float((rounded - x).norm() / x.norm()) == pytest.approx(distance, abs=6e-7)


@pytest.mark.parametrize("shape", [(5,), (3, 4), (0,), ()])
def test_without_numbers_there_is_nothing_to_squeeze(shape: tuple[int, ...]) -> None:
    zeros = torch.zeros(shape)
    assert Squeeze.of(zeros) == (1, 0)
    assert torch.equal(truncate(zeros), zeros)


@pytest.mark.parametrize("magnitude", [3.7, 1e-30, 1e30, 0.1])
def test_one_magnitude_is_kept(magnitude: float) -> None:
    x = torch.tensor([magnitude, -magnitude, 0, magnitude] * 25)
    squeeze = Squeeze.of(x)
    assert float(squeeze.alpha) == 1
    assert torch.equal(truncate(x), x)


def test_it_is_that_of_ml_dtypes_on_many_tensors() -> None:
    """Written once more from the paper's equations, with somebody else's rounding."""
    rng = np.random.default_rng(3)
    for spread in (0.1, 1, 4):
        x = np.exp(spread * rng.standard_normal(5000)) * rng.choice([-1, 1, 0], 5000)
        logs = np.log2(np.abs(x[x != 0]))
        alpha = 15 / (logs.max() - logs.mean())
        beta = -alpha * logs.mean()
        with np.errstate(divide="ignore"):
            y = np.exp2(alpha * np.log2(np.abs(x)) + beta).astype(ml_dtypes.float8_e5m2).astype(float)
            expected = np.sign(x) * np.exp2((np.log2(y) - beta) / alpha)
        np.testing.assert_allclose(truncate(torch.from_numpy(x)), expected, rtol=1e-12)


MAGNITUDES = st.floats(-100, 100).map(lambda exponent: 2.0**exponent)
NUMBERS = st.lists(st.tuples(MAGNITUDES, st.sampled_from([-1.0, 0.0, 1.0])), min_size=1, max_size=40)


@given(NUMBERS)
def test_signs_zeros_and_the_largest_stay(pairs: list[tuple[float, float]]) -> None:
    x = torch.tensor([size * sign for size, sign in pairs])
    rounded = truncate(x)
    assert rounded.dtype == x.dtype
    assert bool(((rounded.sign() == x.sign()) | (rounded == 0)).all())
    assert bool((rounded[x == 0] == 0).all())
    largest = x.abs() == x.abs().max()
    assert torch.equal(rounded[largest], x[largest])
    assert bool((rounded.abs() <= x.abs().max()).all())


@given(NUMBERS, st.integers(-20, 20))
def test_scaling_goes_through(pairs: list[tuple[float, float]], octaves: int) -> None:
    """But where a number of `Y` is at a tie; those are kept away from."""
    x = double([size * sign for size, sign in pairs])
    y = Squeeze.of(x).forth(x)
    sure = (round_to(FP8, y * (1 - 1e-9)) == round_to(FP8, y * (1 + 1e-9))).numpy()
    scaled = truncate(x * 2.0**octaves) / 2.0**octaves
    np.testing.assert_allclose(scaled.numpy()[sure], truncate(x).numpy()[sure], rtol=1e-11)


@pytest.mark.parametrize("alpha", [0.2, 1.0, 1.9462, 65.7526882577, 1e5, 1e9])
def test_the_format_of_a_tensor_is_what_fp8_stands_for(alpha: float) -> None:
    """Its numbers are those that `back` makes of FP8 up to 2^15, for a tensor whose largest number is 1."""
    fmt = SqueezedFormat.of(alpha)
    assert list(fmt.values) == sorted(set(fmt.values))
    assert fmt.values == tuple(np.array(fmt.values, np.float32).tolist())
    assert (fmt.min, fmt.max) == (-1, 1)
    patterns = np.array(fmt.codes).astype(np.uint8).view(ml_dtypes.float8_e5m2).astype(float)
    back = Squeeze(double([alpha])[0], double([15])[0]).back(torch.from_numpy(patterns))
    np.testing.assert_allclose(fmt.values, back, rtol=1e-7, atol=2e-45)
    if 1 <= alpha <= 100:
        assert len(fmt.values) == 2 * (3 + 4 * 29 + 1) + 1


def test_rounding_to_it_is_better_than_rounding_in_the_logarithm() -> None:
    """The nearest number is nearer than that whose `Y` is nearest."""
    x = torch.randn(4000, generator=torch.Generator().manual_seed(0))
    largest = x.abs().max()
    near = round_to(SqueezedFormat.of(float(Squeeze.of(x).alpha)), x / largest) * largest
    rounded = truncate(x)
    error = [(each - x).square().sum() for each in (near, rounded)]
    assert 0.75 * error[1] < error[0] < error[1]


def narrow(spread: float) -> torch.Tensor:
    """A float32 tensor with zeros and both signs, whose `alpha` goes as 1 / spread."""
    generator = torch.Generator().manual_seed(5)
    x = torch.exp(spread * torch.randn(100_000, generator=generator)) * torch.randn(100_000, generator=generator).sign()
    return torch.where(torch.rand(x.shape, generator=generator) < 0.1, 0.0, x)


TENSORS = {
    "much wider than FP8": narrow(12.0),
    "wide": narrow(2.0),
    "alpha of 8": narrow(0.3),
    "alpha of 65": narrow(0.04),
    "alpha of 2,000": narrow(1e-3),
    "alpha of 10,000": narrow(2e-4),
    "large": narrow(2.0) * 1e34,
    "subnormal": narrow(1.0) * 1e-41,
    "from the least to the largest float": torch.exp2(torch.linspace(-149, 127.9, 10_000)),
    "few large ones": torch.cat([torch.full((5000,), 1e-40), torch.tensor([3e38, -1e-44])]),
    "nearly all equal": torch.cat([torch.full((1000,), 3.7), torch.tensor([0.1, -3.0, 0.1])]),
}


@pytest.mark.parametrize("name", TENSORS)
def test_float32_is_as_near_to_float64_as_the_docstring_says(name: str) -> None:
    x = TENSORS[name]
    wide = x.double()
    squeeze, got = Squeeze.of(wide), truncate(x).double()
    off = float(torch.exp2(squeeze.alpha * 2.0**-19 + 2.0**-16))
    y, least = squeeze.forth(wide), 2.0**-149
    sides = [squeeze.back(round_to(FP8, y * factor)) for factor in (1 / off, 1, off)]
    near = torch.stack([(got - side).abs() <= 2.0**-16 * side.abs() + least for side in sides])
    sure = (sides[0] == sides[1]) & (sides[1] == sides[2])
    assert bool(near.any(0).all())
    assert bool(near[1][sure].all())
    assert float(sure.double().mean()) > (0.7 if squeeze.alpha > 5000 else 0.95 if squeeze.alpha > 1000 else 0.99)
    assert torch.equal(got[wide.abs() == wide.abs().max()], wide[wide.abs() == wide.abs().max()])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrower_types_go_through_float32(dtype: torch.dtype) -> None:
    x = narrow(1.0).to(dtype)
    assert torch.equal(truncate(x), truncate(x.float()).to(dtype))


@pytest.mark.parametrize("magnitude", [3.7, 1e-45, 3e-42, 1e-38, 3.4e38, 0.1])
@pytest.mark.parametrize("count", [1, 2, 1_000_003])
def test_magnitudes_that_are_all_equal_are_kept_in_float32(magnitude: float, count: int) -> None:
    x = torch.full((count,), magnitude)
    x[::3] *= -1
    assert torch.equal(truncate(x), x)


@pytest.mark.parametrize("name", VECTORS)
def test_vectors_in_float32(name: str) -> None:
    numbers, _, _, expected = VECTORS[name]
    np.testing.assert_allclose(truncate(torch.tensor(numbers)), expected, rtol=2.0**-16, atol=0)


@pytest.mark.parametrize("broken", [float("nan"), float("inf"), -float("inf")])
def test_what_is_no_number_shows(broken: float) -> None:
    x = torch.tensor([1.0, broken, -3.0, 0.0])
    assert bool(truncate(x).isnan().all())
    assert not bool(truncate(x.double())[1].isfinite())
