"""Bits by layer: the metric of OMPQ to the printed digits, and programs that are solved to the optimum."""

from __future__ import annotations

import itertools
import os
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from ptq.assignment import Budget, assign
from ptq.errors import OptionError
from ptq.orthogonality import gram, likeness, orthogonality, thetas, worths

FIRST = np.array([[1, 0], [0, 1], [1, 1], [2, 0]], np.float32)
SECOND = np.array([[1, 2, 0], [0, 1, 1], [1, 3, 1], [2, 2, 0]], np.float32)
ALIKE = np.array([[1, 0.8, 0.3], [0.8, 1, 0.4], [0.3, 0.4, 1]])


def test_orthogonality_is_that_of_the_paper() -> None:
    alike = orthogonality([gram(FIRST), gram(SECOND)])
    assert alike[0, 1] == pytest.approx(0.8386278694, abs=5e-11)
    np.testing.assert_allclose(np.diag(alike), 1)
    np.testing.assert_allclose(alike, alike.T)


def test_orthogonality_by_its_definition() -> None:
    generator = np.random.default_rng(0)
    features = [generator.normal(size=(32, width)) for width in (3, 50, 400)]
    centred = [each - each.mean(0) for each in features]

    def norm(i: int, j: int) -> float:
        return float(np.square(centred[i].T @ centred[j]).sum() ** 0.5)

    wanted = [[norm(i, j) ** 2 / (norm(i, i) * norm(j, j)) for j in range(3)] for i in range(3)]
    np.testing.assert_allclose(orthogonality([gram(each) for each in features]), wanted, rtol=1e-9)


def test_many_features_are_taken_in_parts() -> None:
    features = np.random.default_rng(0).normal(size=(4, 200_000)) + 1
    centred = features - features.mean(0)
    np.testing.assert_allclose(gram(features), centred @ centred.T, rtol=1e-9, atol=1e-6)


def test_importance_is_that_of_the_paper() -> None:
    importance = thetas(likeness(ALIKE), 1.0)
    np.testing.assert_allclose(importance, [0.33287108, 0.30119421, 0.49658530], atol=5e-9)
    np.testing.assert_allclose(worths(importance), [0.37688353, 0.39888976, 0.49658530], atol=5e-9)


def test_bits_are_those_of_the_paper() -> None:
    """Sizes are megabytes at 8 bits; the first layer has at most 4 bits."""
    worth, sizes, widest = worths(thetas(likeness(ALIKE), 1.0)), [1, 2, 1], [4, 8, 8]
    choices = [range(2, most + 1) for most in widest]
    names = "abc"
    costs = {names[i]: [-bits / 8 * float(worth[i]) for bits in choices[i]] for i in range(3)}
    megabytes = Budget("size", {names[i]: [bits / 8 * sizes[i] for bits in choices[i]] for i in range(3)}, 2)
    chosen = assign(costs, [megabytes])
    assert [choices[i][chosen[names[i]]] for i in range(3)] == [4, 2, 8]


Instance = tuple[dict[str, list[float]], list[Budget]]


def instance(seed: int, layers: int, budgets: int, spread: float) -> Instance:
    """Costs that fall with the size, over as many decades as in networks."""
    generator = np.random.default_rng(seed)
    names = [f"layer{k}" for k in range(layers)]
    counts = generator.integers(2, 5, layers)
    scale = 10.0 ** generator.uniform(-spread, 0, layers)
    costs = {name: (scale[k] * np.sort(generator.random(counts[k]))[::-1]).tolist() for k, name in enumerate(names)}
    made = []
    for number in range(budgets):
        amounts = {name: np.sort(generator.integers(1, 10_000, counts[k])).tolist() for k, name in enumerate(names)}
        if number:
            amounts = {name: each[::-1] for name, each in amounts.items()}
        low, high = (sum(pick(each) for each in amounts.values()) for pick in (min, max))
        made.append(Budget(f"amount {number}", amounts, int(low + (high - low) * generator.uniform(0.3, 0.9))))
    return costs, made


def best(costs: dict[str, list[float]], budgets: list[Budget]) -> float:
    """By trying everything."""
    all_choices = itertools.product(*(range(len(each)) for each in costs.values()))
    named = (dict(zip(costs, each, strict=True)) for each in all_choices)
    within = (each for each in named if all(budget.of(each) <= budget.most for budget in budgets))
    return min((cost(costs, each) for each in within), default=float("inf"))


def cost(costs: dict[str, list[float]], chosen: dict[str, int]) -> float:
    return sum(costs[layer][choice] for layer, choice in chosen.items())


@pytest.mark.parametrize("spread", [0, 3, 8])
@pytest.mark.parametrize("budgets", [1, 2])
@pytest.mark.parametrize("seed", range(8))
def test_nothing_is_better_than_what_is_found(seed: int, budgets: int, spread: float) -> None:
    costs, made = instance(seed, 6, budgets, spread)
    optimum = best(costs, made)
    if optimum == float("inf"):
        with pytest.raises(OptionError, match=r"no choice of formats has .*; raise a budget"):
            assign(costs, made)
        return
    chosen = assign(costs, made)
    assert all(budget.of(chosen) <= budget.most for budget in made)
    assert cost(costs, chosen) == pytest.approx(optimum, rel=1e-9)
    assert assign(costs, made) == chosen


def test_more_is_never_worse() -> None:
    costs, (budget, *_) = instance(3, 60, 1, 4)
    low, high = (sum(pick(each) for each in budget.amounts.values()) for pick in (min, max))
    limits = np.linspace(low, high, 12)
    found = [cost(costs, assign(costs, [Budget("amount", budget.amounts, limit)])) for limit in limits]
    assert all(after <= before for before, after in itertools.pairwise(found))
    assert found[-1] == pytest.approx(sum(min(each) for each in costs.values()))


def solved(seed: int) -> float:
    """The cost of a program of 50 layers; HiGHS prints in some of them."""
    generator = np.random.default_rng(seed)
    weights, effects = 10 ** generator.uniform(3, 6, 50), 10 ** generator.uniform(-5, -2, 50)
    costs = {str(k): (effects[k] * 4.0 ** -np.arange(7)).tolist() for k in range(50)}
    bits = {str(k): [int(weights[k]) * width for width in range(2, 9)] for k in range(50)}
    return cost(costs, assign(costs, [Budget("bits", bits, int(4.1 * weights.sum()))]))


def test_the_solver_prints_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    for seed in range(8):
        solved(seed)
    os.write(1, b"mine")
    assert capfd.readouterr().out == "mine"


def test_what_is_printed_after_programs_in_several_threads_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(solved, range(8)))
    assert found == [solved(seed) for seed in range(8)]
    os.write(1, b"mine")
    assert capfd.readouterr().out == "mine"


def test_the_output_may_be_closed(capfd: pytest.CaptureFixture[str]) -> None:
    shown = os.dup(1)
    os.close(1)
    try:
        assert solved(0) > 0
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.write(1, b"mine")
    finally:
        os.dup2(shown, 1)
        os.close(shown)
    assert not capfd.readouterr().out


def test_costs_of_nothing_and_negative_ones() -> None:
    amounts: dict[str, list[float]] = {"a": [1, 2], "b": [1, 2]}
    assert Budget("bits", amounts, 3).of(assign({"a": [0, 0], "b": [0, 0]}, [Budget("bits", amounts, 3)])) <= 3
    assert assign({"a": [-1, -3], "b": [-1, -2]}, [Budget("bits", amounts, 3)]) == {"a": 1, "b": 0}
    assert assign({}, []) == {}


def test_a_budget_below_the_least_is_refused() -> None:
    with pytest.raises(OptionError, match=r"has bits at most 1 \(at least 2\); raise a budget"):
        assign({"a": [1.0, 0.0], "b": [1.0, 0.0]}, [Budget("bits", {"a": [1, 2], "b": [1, 2]}, 1)])
