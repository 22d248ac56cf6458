"""The greedy selection against the published vectors, brute force and its bounds."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor

from ptq import formats
from ptq.allocation import by_tolerance
from ptq.errors import OptionError
from ptq.ladder import Ladder
from ptq.methods.multipoint import greedy
from ptq.methods.multipoint.greedy import even_grid_point, exact_point, greedy_rows, residuals
from ptq.qtensor import Term

W = torch.tensor([[0.9, -0.35, 0.12, 0.02, -0.77, 0.5, -0.05, 0.31]], dtype=torch.float64)
SEARCHES = ("exact", "grid")

shapes = hnp.array_shapes(min_dims=2, max_dims=2, max_side=6)
rows_of_floats = hnp.arrays(np.float32, shapes, elements=st.floats(-4, 4, width=32))
rows_with_ties = hnp.arrays(np.float32, shapes, elements=st.sampled_from([-3, -1.5, -1, 0, 0.5, 1, 3]))


def lengths(weight: Tensor, points: list[greedy.Point]) -> list[float]:
    return [left.norm().item() for left in residuals(weight, points)]


def test_nothing_is_left_of_a_row_beyond_the_largest_scale() -> None:
    """Vector 1.A."""
    for limit, largest in ((3, 5.4), (7, 12.6)):
        assert 2 * limit * W.abs().max().item() == pytest.approx(largest, abs=1e-12)
        assert (W / (0.999 * largest / limit)).round().any()
        assert not (W / (1.001 * largest / limit)).round().any()
        # The largest scale is the last candidate of the grid: with a step of just that, it is the only one.
        assert even_grid_point(W, limit, torch.tensor([0.999 * largest])).integers.tolist() == [[1.0] + [0.0] * 7]
        assert not even_grid_point(W, limit, torch.tensor([1.001 * largest])).integers.any()


@pytest.mark.parametrize(
    ("limit", "integers", "error"),
    [
        (1, [1, 0, 0, 0, -1, 1, 0, 0], 0.6424951362),
        (3, [3, -1, 0, 0, -3, 2, 0, 1], 0.2163330765),
        (7, [7, -3, 1, 0, -6, 4, 0, 2], 0.0851409396),
    ],
)
def test_one_point_beats_the_naive_grid(limit: int, integers: list[int], error: float) -> None:
    """Vector 1.B: the scale `max|w| / L`, without a search."""
    scale = W.abs().max() / limit
    naive = (W / scale).round()
    assert naive.tolist() == [integers]
    assert (W - scale * naive).norm().item() == pytest.approx(error, abs=5e-11)
    assert lengths(W, greedy_rows(W, limit, 1))[0] < error


EXACT = {
    1: [
        (0.5660000000, [1, -1, 0, 0, -1, 1, 0, 1], 0.5357424754),
        (0.2260000000, [1, 1, 1, 0, -1, 0, 0, -1], 0.1778763616),
        (0.0825000000, [1, 0, -1, 0, 0, -1, -1, 0], 0.0664454664),
        (0.0242857143, [1, 0, -1, 1, 1, 1, 1, -1], 0.0169242008),
    ],
    3: [
        (0.8337500000, [3, -1, 0, 0, -3, 2, 0, 1], 0.1873388196),
        (0.1047767857, [2, -2, 3, 1, 2, -2, -1, 1], 0.0306840619),
        (0.0146359890, [-1, 0, 3, -3, -1, 3, -3, -1], 0.0036412774),
        (0.0020120074, [2, -3, 1, 0, -2, -1, -1, 3], 0.0004634501),
    ],
    7: [
        (0.8953913043, [7, -3, 1, 0, -6, 4, 0, 2], 0.0848476896),
        (0.0504070573, [1, 5, -1, 3, 0, -2, -7, 7], 0.0065731892),
        (0.0037400986, [-5, -4, -1, -3, -5, 5, 1, 7], 0.0003160685),
        (0.0001782647, [3, -5, -7, 0, 6, 3, -5, 1], 0.0000049653),
    ],
}


@pytest.mark.parametrize("limit", EXACT)
def test_exact_search(limit: int) -> None:
    """Vector 1.C."""
    points = greedy_rows(W, limit, 4)
    for point, length, (a, integers, error) in zip(points, lengths(W, points), EXACT[limit], strict=True):
        assert point.integers.tolist() == [integers]
        assert point.scale.item() * limit == pytest.approx(a, abs=5.1e-11)
        assert length == pytest.approx(error, abs=5.1e-11)


GRID = {
    1: [
        (0.5664062500, 0.5357432456),
        (0.2255859375, 0.1778810907),
        (0.0820312500, 0.0664647376),
        (0.0244140625, 0.0170030946),
    ],
    3: [
        (0.8339843750, 0.1873392106),
        (0.1044921875, 0.0306017618),
        (0.0146484375, 0.0037260293),
        (0.0019531250, 0.0006226900),
    ],
    7: [
        (0.8955078125, 0.0848478774),
        (0.0507812500, 0.0065504622),
        (0.0039062500, 0.0004141136),
        (0.0009765625, 0.0001016789),
    ],
}


@pytest.mark.parametrize("limit", GRID)
def test_grid_of_one_step(limit: int) -> None:
    """Vector 1.D."""
    left = W
    for a, error in GRID[limit]:
        point = even_grid_point(left, limit, torch.tensor([2.0**-10]))
        left = left - point.dequantized()
        assert point.scale.item() * limit == pytest.approx(a, abs=1e-15)
        assert left.norm().item() == pytest.approx(error, abs=5.1e-11)


def test_decay() -> None:
    """Vector 1.E."""
    expected = {
        1: [0.4326179344, 0.2072527899, 0.1362620674, 0.0847157875, 0.0492356869],
        3: [0.2696062075, 0.0893876109, 0.0510342119, 0.0072364438, 0.0010409351],
        7: [0.0970066285, 0.0101886182, 0.0031485453, 0.0005988377, 0.0001850612],
    }
    rng = np.random.default_rng(0)
    for limit, relative in expected.items():
        row = torch.tensor(rng.standard_normal(256))[None]
        found = lengths(row, greedy_rows(row, limit, 5))
        assert [length / row.norm().item() for length in found] == pytest.approx(relative, abs=5.1e-11)


def test_as_many_points_as_the_output_needs() -> None:
    """Vector 1.F."""
    rng = np.random.default_rng(1)
    inputs = rng.standard_normal((256, 16))
    inputs[:, 3] *= 8
    weight = rng.standard_normal((6, 16)) * np.array([1, 0.2, 1, 3, 0.5, 1])[:, None]
    weight[0, 3] = 2
    rows = torch.tensor(weight)

    def error(residual: Tensor) -> Tensor:
        return (residual @ torch.tensor(inputs).T).square().mean(-1)

    points = greedy_rows(rows, 3, 3)
    errors = torch.stack([error(left) for left in residuals(rows, points)], dim=1)
    printed = [
        [7.11343, 0.108776, 0.000430],
        [0.0728811, 0.00256866, 0.0000140],
        [2.80008, 0.0848385, 0.00228830],
        [8.88606, 1.43481, 0.00278745],
        [1.39499, 0.00372040, 0.000356285],
        [3.13138, 0.0215604, 0.000454982],
    ]
    half_digit = [[5e-6, 5e-7, 5e-7], [5e-8, 5e-9, 5e-8], [5e-6, 5e-8, 5e-9], [5e-6, 5e-6, 5e-9], [5e-6, 5e-9, 5e-10]]
    half_digit.append([5e-6, 5e-8, 5e-10])
    assert (errors - torch.tensor(printed, dtype=torch.float64)).abs().le(torch.tensor(half_digit) * 1.01).all()
    terms = tuple(Term(point.integers, point.scale.float(), formats.get("int3")) for point in points)
    ladder = Ladder(tuple(terms[: n + 1] for n in range(3)), errors.T, torch.ones(6))
    assert (1 + by_tolerance({"w": ladder}, 0.5, per_layer=False)["w"]).tolist() == [2, 1, 2, 3, 2, 2]


def best_of_all(row: np.ndarray, limit: int) -> float:
    """The least residual over every low-bit vector, by trying them all."""
    vectors = np.array(list(itertools.product(range(-limit, limit + 1), repeat=len(row))), dtype=np.float64)
    norms = (vectors**2).sum(1)
    gain = np.where(norms > 0, (vectors @ row) ** 2 / np.maximum(norms, 1), 0)
    return float(row @ row - gain.max())


@given(st.sampled_from([(1, 6), (2, 4), (3, 4), (7, 3)]), st.data())
@settings(max_examples=80, deadline=None)
def test_exact_search_finds_the_best_of_all_low_bit_vectors(case: tuple[int, int], data: st.DataObject) -> None:
    limit, most = case
    values = st.one_of(st.floats(-4, 4, width=32), st.sampled_from([-3, -1.5, -1, 0.0, 0.5, 1, 3]))
    row = np.array(data.draw(st.lists(values, min_size=1, max_size=most)), dtype=np.float64)
    left = torch.tensor(row)[None]
    for _ in range(3):
        best = best_of_all(left[0].numpy(), limit)
        power = left.square().sum().item()
        left = left - exact_point(left, limit).dequantized()
        assert left.square().sum().item() == pytest.approx(best, rel=1e-9, abs=1e-12 * max(power, 1e-300))


@given(st.sampled_from([1, 3, 7]), st.one_of(rows_of_floats, rows_with_ties))
@settings(deadline=None)
def test_the_integers_are_the_row_rounded_at_its_own_scale(limit: int, array: np.ndarray) -> None:
    rows = torch.tensor(array).double()
    scale, integers = exact_point(rows, limit)
    ratio = rows / torch.where(scale > 0, scale, torch.inf)[:, None]
    distance = (ratio.clamp(-limit, limit) - integers).abs()
    assert (distance <= 0.5 + 1e-9).all()
    assert (integers == integers.round()).all()
    assert (integers.abs() <= limit).all()


@given(st.sampled_from([1, 3, 7]), st.one_of(rows_of_floats, rows_with_ties), st.integers(1, 5))
@settings(deadline=None)
def test_the_residual_falls_at_least_as_the_bounds_say(limit: int, array: np.ndarray, count: int) -> None:
    """Papers' bounds: `(1 - 1/d)` per point, and `|r|_1^2 / d` in one."""
    rows = torch.tensor(array).double()
    columns = rows.shape[1]
    before = rows
    for left in residuals(rows, greedy_rows(rows, limit, count)):
        power, slack = before.square().sum(-1), 1e-12 * rows.square().sum(-1)
        now = left.square().sum(-1)
        assert (now <= power * (1 - 1 / columns) + slack).all()
        assert (now <= power - before.abs().sum(-1).square() / columns + slack).all()
        before = left


@given(st.one_of(rows_of_floats, rows_with_ties), st.sampled_from(SEARCHES))
@settings(max_examples=40, deadline=None)
def test_a_grid_never_beats_the_exact_step_and_never_harms(array: np.ndarray, search: str) -> None:
    rows = torch.tensor(array)
    power = rows.double().square().sum(-1)
    exact, found = (next(residuals(rows, greedy_rows(rows, 3, 1, search=name))) for name in ("exact", search))
    assert (exact.square().sum(-1) <= found.square().sum(-1) + 1e-12 * power).all()
    assert (found.square().sum(-1) <= power * (1 + 1e-12)).all()


def test_the_grid_of_the_paper_steps_by_the_smallest_gap() -> None:
    """`gamma = min(gap / L, eta)` with the gap 0.07 of W: for limit 1 its own multiples, by hand."""
    grid = torch.arange(1, 26, dtype=torch.float64) * 0.07
    errors = torch.stack([(W - a * (W / a).round().clamp(-1, 1)).square().sum() for a in grid])
    point = greedy.grid_point(W, 1, eta=1.0)
    assert point.scale.item() == pytest.approx(grid[errors.argmin()].item(), rel=1e-12)
    fine = greedy.grid_point(W, 1, eta=2.0**-10)
    assert fine.scale.item() == pytest.approx(0.5664062500, abs=1e-15)


@pytest.mark.parametrize("search", SEARCHES)
def test_rows_without_anything_stay_zero(search: str) -> None:
    rows = torch.tensor([[0.0, 0.0, 0.0], [1.0, -1.0, 1.0], [0.0, 0.5, 0.0], [0.3, 0.2, 0.1]])
    for step, point in enumerate(greedy_rows(rows, 7, 3, search=search)):
        assert point.scale[0] == 0
        assert not point.integers[0].any()
        assert point.scale.isfinite().all()
        if step > 0 and search == "exact":
            assert (point.scale[1:3] < 1e-15).all()


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("factor", [2.0**-100, 2.0**-40, 2.0**40, 2.0**100])
def test_the_scale_of_the_weight_does_not_matter(search: str, factor: float) -> None:
    rows = torch.tensor(np.random.default_rng(5).normal(size=(4, 9)), dtype=torch.float32)
    eta = greedy.ETA
    plain = greedy_rows(rows, 3, 3, search=search, eta=eta)
    scaled = greedy_rows(rows * factor, 3, 3, search=search, eta=eta * factor)
    for one, other in zip(plain, scaled, strict=True):
        assert torch.equal(one.integers, other.integers)
        assert torch.equal(one.scale * factor, other.scale)


def test_a_row_does_not_depend_on_the_rows_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.tensor(np.random.default_rng(6).normal(size=(7, 20)))
    for search in SEARCHES:
        together = greedy_rows(rows, 7, 2, search=search)
        monkeypatch.setattr(greedy, "_MOST_ELEMENTS", 300)
        apart = greedy_rows(rows, 7, 2, search=search)
        monkeypatch.undo()
        for one, other in zip(together, apart, strict=True):
            assert torch.equal(one.integers, other.integers)
            assert torch.equal(one.scale, other.scale)


def test_later_points_make_up_for_scales_that_are_stored_coarsely() -> None:
    rows = torch.tensor(np.random.default_rng(7).normal(size=(16, 64)))
    stored = greedy_rows(rows, 7, 4, stored=torch.bfloat16)
    late = [greedy.Point(p.scale.bfloat16().double(), p.integers) for p in greedy_rows(rows, 7, 4)]
    assert all(torch.equal(p.scale, p.scale.bfloat16().double()) for p in stored)
    assert lengths(rows, stored)[-1] < 0.5 * lengths(rows, late)[-1]


def test_the_weight_is_left_alone_and_integers_are_bytes() -> None:
    rows = torch.tensor(np.random.default_rng(8).normal(size=(3, 5)), dtype=torch.float32)
    before = rows.clone()
    (point,) = greedy_rows(rows, 127, 1)
    assert torch.equal(rows, before)
    assert (point.integers.dtype, point.integers.shape, point.scale.shape) == (torch.int8, (3, 5), (3,))


def test_no_rows_give_no_points_and_unknown_searches_are_named() -> None:
    (point,) = greedy_rows(torch.zeros(0, 4), 3, 1)
    assert (point.integers.shape, point.scale.shape) == ((0, 4), (0,))
    with pytest.raises(OptionError, match="unknown search 'exakt'; did you mean 'exact'"):
        greedy_rows(W, 3, 1, search="exakt")
