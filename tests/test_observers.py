"""Statistics do not depend on how the data were split, and are what numpy says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.observers import MOST_BINS, Histogram, Mean, Moments, Range
from ptq.errors import DataError

numbers = st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=30)


@given(st.lists(numbers, min_size=1, max_size=6), st.randoms())
@settings(deadline=None)
def test_histograms_are_a_commutative_monoid(parts: list[list[float]], random: object) -> None:
    together = Histogram()
    together.add(np.concatenate([np.array(part) for part in parts]))
    one_by_one = Histogram()
    for part in parts[::-1]:
        alone = Histogram()
        alone.add(np.array(part))
        one_by_one.merge(alone)
    expected, got = together.result(), one_by_one.result()
    assert np.array_equal(expected.counts, got.counts)
    assert np.array_equal(expected.edges, got.edges)
    assert (expected.low, expected.high) == (got.low, got.high)


@given(numbers)
@settings(deadline=None)
def test_counts_are_numpys(values: list[float]) -> None:
    histogram = Histogram()
    histogram.add(np.array(values))
    density = histogram.result()
    assert len(density.counts) <= MOST_BINS + 1
    below = [int((np.array(values) < edge).sum()) for edge in density.edges]
    assert np.array_equal(np.diff(below), density.counts)
    assert density.counts.sum() == len(values)


def test_a_histogram_is_fine() -> None:
    histogram = Histogram()
    histogram.add(np.linspace(-1, 1, 10_001))
    assert len(histogram.result().counts) >= MOST_BINS // 2


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(DataError, match="not finite"):
        Histogram().add(np.array([0.0, bad]))
    with pytest.raises(DataError, match="not finite"):
        Range().add(0.0, bad)
    moments = Moments()
    moments.add(torch.tensor([[[0.0, bad]]]))
    with pytest.raises(DataError, match="not finite"):
        moments.result()


def test_moments_of_numbers_whose_squares_float32_does_not_hold() -> None:
    x = torch.randn(1, 50, 3, generator=torch.Generator().manual_seed(0)) * 1e30
    moments = Moments()
    moments.add(x)
    expected = x[0].double().numpy()
    np.testing.assert_allclose(moments.result().gram[0], expected.T @ expected / 50, rtol=1e-5)
    np.testing.assert_allclose(moments.result().mean[0], expected.mean(0), rtol=1e-5)


def test_nothing_seen_is_an_error() -> None:
    with pytest.raises(DataError, match="at least one"):
        Histogram().result()
    with pytest.raises(DataError, match="at least one"):
        Moments().result()


def test_moments_are_numpys_however_split() -> None:
    x = torch.randn(3, 50, 7, generator=torch.Generator().manual_seed(0))
    whole, left, right = Moments(), Moments(), Moments()
    whole.add(x)
    left.add(x[:, :20])
    right.add(x[:, 20:])
    left.merge(right)
    for moments in (whole, left):
        result = moments.result()
        assert result.count == 50
        for group in range(3):
            expected = np.cov(x[group].double().numpy().T, bias=True)
            assert np.allclose(result.centred()[group].numpy(), expected, atol=1e-5)
            assert np.allclose(result.mean[group].numpy(), x[group].double().mean(0).numpy())


@given(st.permutations(range(12)), st.integers(1, 5))
@settings(deadline=None)
def test_sums_do_not_depend_on_the_order_to_the_last_bit(order: list[int], parts: int) -> None:
    generator = torch.Generator().manual_seed(0)
    scale = torch.logspace(-4, 3, 6) * 10 ** torch.empty(12, 1, 1, 1).uniform_(-1, 1, generator=generator)
    batches = torch.randn(12, 2, 40, 6, generator=generator) * scale
    moments, means = [Moments() for _ in range(parts)], [Mean() for _ in range(parts)]
    for place, index in enumerate(order):
        moments[place % parts].add(batches[index])
        means[place % parts].add(batches[index][0].mean(0), index + 1)
    one_by_one, total, mean = Moments(), Moments(), Mean()
    for batch in batches:
        one_by_one.add(batch)
    for moment, part in zip(moments, means, strict=True):
        total.merge(moment)
        mean.merge(part)
    found, expected = total.result(), one_by_one.result()
    assert torch.equal(found.gram, expected.gram)
    assert torch.equal(found.mean, expected.mean)
    exact = (batches[:, 0].double().mean(1) * torch.arange(1, 13)[:, None]).sum(0) / 78
    assert torch.allclose(mean.result(), exact, rtol=1e-5, atol=0)
    again = Mean()
    for index in range(12):
        again.add(batches[index][0].mean(0), index + 1)
    assert torch.equal(mean.result(), again.result())
