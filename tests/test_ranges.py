"""Activation ranges against brute force on the raw numbers, the literature's optima, and ONNX Runtime."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from ptq import formats, ranges
from ptq.errors import DataError
from ptq.formats.integer import IntFormat
from ptq.ranges import RANGES, ActivationRange, Density, affine, mse, percentile

UINT8, INT8 = formats.get("uint8"), IntFormat("int8", 8, narrow=False)
UINT4 = IntFormat("uint4", 4, signed=False, narrow=False)


@dataclass(frozen=True)
class Histogram:
    counts: np.ndarray
    edges: np.ndarray
    low: float
    high: float


def seen(numbers: np.ndarray, bins: int = 2048) -> Density:
    counts, edges = np.histogram(numbers, bins)
    return Histogram(counts, edges, float(numbers.min()), float(numbers.max()))


def quantized(numbers: np.ndarray, chosen: ActivationRange, fmt: formats.Format = UINT8) -> np.ndarray:
    scale, zero_point = affine(fmt, chosen.low, chosen.high)
    codes = np.clip(np.round(numbers / float(scale)) + zero_point, fmt.min, fmt.max)
    return (codes - zero_point) * float(scale)


def error(numbers: np.ndarray, chosen: ActivationRange, fmt: formats.Format = UINT8) -> float:
    return float(((numbers - quantized(numbers, chosen, fmt)) ** 2).mean())


def samples(kind: str, count: int = 50_000) -> np.ndarray:
    rng = np.random.default_rng(11)
    normal = rng.standard_normal(count)
    return {
        "normal": normal,
        "laplace": rng.laplace(size=count),
        "relu": np.maximum(normal, 0),
        "shifted": normal + 2.5,
        "below": -np.abs(normal) - 1,
        "outlier": np.append(normal, 30.0),
        "relu6": np.clip(4 * normal, 0, 6),
        "heavy": rng.standard_t(3, size=count),
    }[kind]


KINDS = ["normal", "laplace", "relu", "shifted", "below", "outlier", "relu6", "heavy"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", RANGES)
def test_a_range_contains_zero_and_only_what_was_seen(name: str, kind: str) -> None:
    numbers = samples(kind)
    chosen = RANGES[name](seen(numbers), UINT8)
    assert min(numbers.min(), 0) <= chosen.low <= 0 <= chosen.high <= max(numbers.max(), 0)
    scale, zero_point = affine(UINT8, chosen.low, chosen.high)
    assert scale > 0
    assert 0 <= zero_point <= 255
    assert quantized(np.zeros(1), chosen)[0] == 0


def test_minmax_is_all_that_was_seen() -> None:
    assert RANGES["minmax"](seen(np.array([-1.5, 3.25])), UINT8) == ActivationRange(-1.5, 3.25)
    assert RANGES["minmax"](seen(np.array([2.0, 3.0])), UINT8) == ActivationRange(0.0, 3.0)


@pytest.mark.parametrize("kind", ["normal", "laplace", "heavy"])
@pytest.mark.parametrize("percent", [99.0, 99.9, 99.99])
def test_percentiles_are_those_of_the_numbers(kind: str, percent: float) -> None:
    numbers = samples(kind)
    chosen = percentile(seen(numbers), UINT8, percent)
    beyond = (100 - percent) / 100 * len(numbers)
    assert (numbers < chosen.low).sum() == pytest.approx(beyond, abs=2 + 0.02 * beyond)
    assert (numbers > chosen.high).sum() == pytest.approx(beyond, abs=2 + 0.02 * beyond)


def test_a_percentile_of_100_is_minmax_across_empty_bins() -> None:
    density = Histogram(np.array([0, 0, 5, 0, 5, 0]), np.linspace(-3, 3, 7), -0.5, 1.75)
    assert percentile(density, UINT8, 100.0) == ActivationRange(-0.5, 1.75)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fmt", [UINT8, UINT4])
def test_mse_finds_what_brute_force_over_the_numbers_finds(kind: str, fmt: formats.Format) -> None:
    numbers = samples(kind, 4000)
    low, high = min(numbers.min(), 0.0), max(numbers.max(), 0.0)
    parts = np.linspace(0.02, 1, 40)
    least = min(
        error(numbers, ActivationRange(low * a, high * b), fmt)
        for a in (parts if low else parts[-1:])
        for b in (parts if high else parts[-1:])
    )
    chosen = mse(seen(numbers), fmt)
    assert error(numbers, chosen, fmt) <= least * 1.02
    assert error(numbers, chosen, fmt) <= error(numbers, ActivationRange(low, high), fmt) * 1.001


@pytest.mark.parametrize(
    ("distribution", "bits", "optimum"),
    [
        (stats.norm, 4, 2.55),
        (stats.norm, 8, 3.92),
        (stats.laplace, 4, 5.03),
        (stats.laplace, 8, 9.89),
    ],
)
def test_mse_finds_the_optima_of_the_literature(distribution: stats.rv_continuous, bits: int, optimum: float) -> None:
    """Optimal clipping of arXiv:1810.05723, table for unit variance (normal) and unit scale (Laplace)."""
    edges = np.linspace(-16, 16, 2**14 + 1)
    density = Histogram(np.diff(distribution.cdf(edges)) * 1e9, edges, -16.0, 16.0)
    chosen = mse(density, IntFormat("uint", bits, signed=False, narrow=False))
    # Their model has 2^bits cells and rounds within; ours has 2^bits points, one on each end.
    assert chosen.high - chosen.low == pytest.approx(2 * optimum, rel=0.04)


@pytest.mark.parametrize("name", ["mse", "entropy"])
def test_an_outlier_is_clipped(name: str) -> None:
    numbers = samples("outlier")
    chosen = RANGES[name](seen(numbers), UINT4 if name == "mse" else UINT8)
    assert chosen.high < 15


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("distribution", [stats.norm, stats.laplace, stats.halfnorm, stats.expon, stats.t(3)])
def test_entropy_is_near_the_least_error_on_smooth_distributions(distribution: stats.rv_continuous, bits: int) -> None:
    low = max(distribution.support()[0], -20)
    edges = np.linspace(low, 20, 2049)
    density = Histogram(np.diff(distribution.cdf(edges)) * 1e6, edges, low, 20.0)
    fmt = IntFormat("uint", bits, signed=False, narrow=False)
    numbers = distribution.rvs(size=100_000, random_state=4)
    assert error(numbers, RANGES["entropy"](density, fmt), fmt) < 1.6 * error(numbers, mse(density, fmt), fmt)


def divergence(density: Density, chosen: ActivationRange) -> float:
    """The definition, bin by bin, for numbers of UINT4; bins that hold 0 must be no peak."""
    scale, zero_point = affine(UINT4, chosen.low, chosen.high)
    bins = [
        (count, int(np.round((left + right) / 2 / float(scale)) + zero_point))
        for count, left, right in zip(density.counts, density.edges[:-1], density.edges[1:], strict=True)
    ]
    inside = [i for i, (count, code) in enumerate(bins) if count and 0 <= code <= 15]
    before = {i: float(bins[i][0]) for i in inside}
    cells: dict[int, list[int]] = {}
    for i in inside:
        cells.setdefault(bins[i][1], []).append(i)
    after = {i: sum(bins[j][0] for j in cell) / len(cell) for cell in cells.values() for i in cell}
    before[inside[0]] += sum(count for count, _ in bins[: inside[0]])
    before[inside[-1]] += sum(count for count, _ in bins[inside[-1] + 1 :])
    total, kept = sum(before.values()), sum(after.values())
    return sum(before[i] / total * np.log(before[i] / total * kept / after[i]) for i in inside)


@pytest.mark.parametrize("low", [-12.0, 0.0])
def test_entropy_finds_the_least_divergence(low: float) -> None:
    edges = np.linspace(low, 20, 257)
    centres = (edges[1:] + edges[:-1]) / 2
    density = Histogram(np.round(1e6 * np.exp(-np.abs(centres - 1))).astype(int), edges, low, 20.0)
    parts = np.linspace(0.1, 1, 30)
    for chosen in (ActivationRange(low / 2, 5.0), ActivationRange(low / 3, 13.7), ActivationRange(low, 20.0)):
        assert ranges._divergence(density, UINT4, chosen.low, chosen.high) == pytest.approx(divergence(density, chosen))
    scanned = [ActivationRange(low * a, 20 * b) for a in (parts if low else [1.0]) for b in parts]
    assert divergence(density, RANGES["entropy"](density, UINT4)) <= 1.05 * min(divergence(density, r) for r in scanned)


def test_zeros_do_not_move_the_entropy_range() -> None:
    edges = np.linspace(0, 8, 2049)
    counts = np.diff(stats.halfnorm.cdf(edges)) * 1e6
    chosen = RANGES["entropy"](Histogram(counts, edges, 0.0, 8.0), UINT8)
    counts[0] *= 1000
    assert RANGES["entropy"](Histogram(counts, edges, 0.0, 8.0), UINT8).high == pytest.approx(chosen.high, rel=0.02)


@pytest.mark.parametrize("name", RANGES)
def test_uniform_numbers_are_not_clipped(name: str) -> None:
    chosen = RANGES[name](seen(np.linspace(-1, 3, 200_000)), UINT8)
    assert chosen.low == pytest.approx(-1, abs=0.01)
    assert chosen.high == pytest.approx(3, abs=0.01)


@pytest.mark.parametrize("name", RANGES)
def test_nothing_but_zeros_or_nothing_at_all_is_a_range(name: str) -> None:
    zeros = Histogram(np.array([0, 7, 0]), np.array([-1.0, -0.5, 0.5, 1.0]), 0.0, 0.0)
    assert affine(UINT8, *_ends(RANGES[name](zeros, UINT8))) == (np.float32(1 / 255), 0)
    empty = Histogram(np.zeros(4), np.linspace(0, 1, 5), 0.0, 0.0)
    assert affine(UINT8, *_ends(RANGES[name](empty, UINT8))) == (np.float32(1 / 255), 0)
    constant = seen(np.full(10, 2.5))
    assert RANGES[name](constant, UINT8).high == pytest.approx(2.5, rel=0.03)


def _ends(chosen: ActivationRange) -> tuple[float, float]:
    return chosen.low, chosen.high


ends = st.floats(0, 2.0**127, width=32)


@given(ends, ends, st.sampled_from([UINT8, UINT4, INT8, formats.get("int8")]))
def test_affine_covers_the_range_up_to_half_a_step(below: float, above: float, fmt: formats.Format) -> None:
    scale, zero_point = affine(fmt, -below, above)
    assert isinstance(scale, np.float32)
    assert np.isfinite(scale)
    assert scale >= np.finfo(np.float32).tiny
    assert fmt.min <= zero_point <= fmt.max
    step = float(scale)
    assert (fmt.min - zero_point) * step <= -below + step * 0.5001
    assert (fmt.max - zero_point) * step >= above - step * 0.5001


@given(st.floats(-1e3, 0, width=32), st.floats(0, 1e3, width=32))
@settings(max_examples=30, deadline=None)
def test_affine_is_what_dynamic_quantize_linear_chooses(low: float, high: float) -> None:
    import onnx.helper as oh
    from onnx.reference import ReferenceEvaluator

    if high - low < 1e-3:
        return
    outputs = [oh.make_tensor_value_info(n, k, s) for n, k, s in (("y", 2, ["n"]), ("s", 1, []), ("z", 2, []))]
    node = oh.make_node("DynamicQuantizeLinear", ["x"], ["y", "s", "z"])
    graph = oh.make_graph([node], "g", [oh.make_tensor_value_info("x", 1, ["n"])], outputs)
    _, scale, zero_point = ReferenceEvaluator(oh.make_model(graph)).run(None, {"x": np.array([low, high], np.float32)})
    ours = affine(UINT8, low, high)
    assert ours[0] == pytest.approx(float(scale), rel=3e-7)
    assert abs(ours[1] - int(zero_point)) <= 1  # ONNX divides in float32: a tie may fall to the other side


@pytest.mark.parametrize(("low", "high"), [(np.nan, 1.0), (-1.0, np.inf), (0.5, 1.0), (-2.0, -1.0), (0.0, 1e39)])
def test_impossible_ranges_are_refused(low: float, high: float) -> None:
    with pytest.raises(DataError, match="not finite around 0; check the data"):
        affine(UINT8, low, high)
