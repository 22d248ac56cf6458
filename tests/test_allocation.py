"""Points go where they pay, and no further than the budget."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from ptq import allocation, formats
from ptq.errors import OptionError
from ptq.ladder import Ladder
from ptq.methods.multipoint import Multipoint
from ptq.scheme import Scheme
from ptq.solve import Curvature


def ladder(rows: int, columns: int, *, seed: int = 0, scale: Tensor | float = 1.0, base: str = "int4") -> Ladder:
    weight = torch.randn(1, rows, columns, generator=torch.Generator().manual_seed(seed)) * scale
    return Multipoint(Scheme(formats.get(base)), rounding="nearest").ladder(weight, Curvature.unknown(1, columns))


def stored(ladders: dict[str, Ladder], rungs: dict[str, Tensor]) -> float:
    bits = sum(each.pick(rungs[name]).storage_bits for name, each in ladders.items())
    return bits / sum(each.shape[0] * each.shape[1] for each in ladders.values())


@pytest.mark.parametrize("base", ["int4", "int3", "int2"])
@pytest.mark.parametrize("above", [0.1, 0.4, 1.0, 2.5])
def test_the_budget_is_met_and_used(base: str, above: float) -> None:
    ladders = {"a": ladder(40, 128, base=base), "b": ladder(24, 256, seed=1, base=base)}
    budget = formats.get(base).bits + 0.1 + above
    rungs, spent = allocation.by_bits(ladders, {"a": 1.0, "b": 0.1}, budget, per_layer=False)
    assert spent <= budget
    assert spent > budget - 0.2
    assert stored(ladders, rungs) <= budget + 1e-9


def test_the_site_with_the_larger_effect_comes_first() -> None:
    ladders = {"a": ladder(40, 128), "b": ladder(40, 128)}
    rungs, _ = allocation.by_bits(ladders, {"a": 1.0, "b": 1e-6}, 5.0, per_layer=False)
    assert rungs["a"].float().mean() > rungs["b"].float().mean()


def test_the_row_with_the_larger_error_comes_first() -> None:
    scale = torch.ones(40, 1)
    scale[7] = 50.0
    rungs, _ = allocation.by_bits({"a": ladder(40, 128, scale=scale)}, {"a": 1.0}, 4.3, per_layer=False)
    assert rungs["a"][7] > 0
    assert (rungs["a"] == 0).any()


def test_per_layer_moves_layers_whole() -> None:
    ladders = {name: ladder(16, 64, seed=k) for k, name in enumerate("abcd")}
    rungs, _ = allocation.by_bits(ladders, dict.fromkeys(ladders, 1.0), 6.5, per_layer=True)
    assert all(len(each.unique()) == 1 for each in rungs.values())
    assert len({int(each[0]) for each in rungs.values()}) == 2


def test_a_whole_ladder_moves_whole_whatever_is_asked() -> None:
    ladders = {name: replace(ladder(16, 64, seed=k), whole=True) for k, name in enumerate("abcd")}
    rungs, _ = allocation.by_bits(ladders, dict.fromkeys(ladders, 1.0), 6.5, per_layer=False)
    assert all(len(each.unique()) == 1 for each in rungs.values())
    assert len({int(each[0]) for each in rungs.values()}) == 2
    assert len(allocation.by_tolerance(ladders, 1e-2, per_layer=False)["a"].unique()) == 1


def test_rungs_that_a_larger_one_beats_per_bit_are_skipped() -> None:
    method = Multipoint(Scheme(formats.get("int4")), rounding="nearest", last=formats.get("int2"))
    found = method.ladder(torch.randn(1, 8, 64), Curvature.unknown(1, 64))
    assert len(found.rungs) == 3
    useless = Ladder(found.rungs, found.error[[0, 0, 2]], found.power)
    assert set(allocation.by_bits({"a": useless}, {"a": 1.0}, 6.5, per_layer=False)[0]["a"].tolist()) == {0, 2}
    perfect = Ladder(found.rungs, found.error[[0, 2, 2]], found.power)
    assert set(allocation.by_bits({"a": perfect}, {"a": 1.0}, 9.0, per_layer=False)[0]["a"].tolist()) == {1}


def one_by_one(ladders: dict[str, Ladder], budget: float) -> dict[str, list[int]]:
    """Rows whose errors are what they do to the output, climbing as long as a step pays and there is room for it."""
    steps = []
    for name, made in sorted(ladders.items()):
        widths = [made.row_bits(rung) * (made.shape[0] if made.whole else 1) for rung in range(len(made.rungs))]
        errors = made.error.double().sum(1, keepdim=True) if made.whole else made.error.double()
        for row, error in enumerate(errors.T.tolist()):
            here = 0
            while here < len(widths) - 1:
                merits = [(error[here] - error[k]) / (widths[k] - widths[here]) for k in range(here + 1, len(widths))]
                best = max(range(len(merits)), key=lambda k: (merits[k], k))
                if merits[best] <= 0:
                    break
                steps.append((-merits[best], name, row, here, here + 1 + best, widths[here + 1 + best] - widths[here]))
                here += 1 + best
    least = stored(ladders, allocation.all_on(ladders, 0))
    weights = sum(each.shape[0] * each.shape[1] for each in ladders.values())
    spare = (budget - least) * weights
    while True:
        reached, left = {name: [0] * made.shape[0] for name, made in ladders.items()}, spare
        for _, name, row, before, after, bits in sorted(steps):
            if reached[name][row] == before and bits <= left:
                reached[name][row] = after
                left -= bits
        for name, made in ladders.items():
            reached[name] = reached[name][:1] * made.shape[0] if made.whole else reached[name]
        over = stored(ladders, {name: torch.tensor(each) for name, each in reached.items()}) - budget
        if over <= 1e-9 or spare <= 0:
            return reached
        spare -= over * weights


@pytest.mark.parametrize("seed", range(12))
def test_all_rows_at_once_climb_as_one_after_the_other_does(seed: int) -> None:
    """Few different errors, so that steps are as good as others, lead nowhere, or to a larger error."""
    draws, last = np.random.default_rng(seed), formats.get("int2")
    ladders = {}
    for name in ("b", "a10", "a2"):
        rows, columns = draws.integers(1, 9), 8 * draws.integers(1, 6)
        method = Multipoint(Scheme(formats.get("int4")), rounding="nearest", last=last, wider=formats.get("int6"))
        made = method.ladder(torch.randn(1, rows, columns), Curvature.unknown(1, columns))
        error = torch.from_numpy(np.sort(draws.integers(0, 9, (4, rows)), 0)[::-1].copy()).float()
        error[1] += torch.from_numpy(draws.integers(0, 3, rows))
        error[0, 0] += 128 - error[0].sum()  # a power of two, by which parts in it are exact
        ladders[name] = replace(made, error=error, whole=name == "a2" and seed % 2 == 0)
    effects = dict.fromkeys(ladders, 128.0)
    for above in (0.0, 0.3, 1.0, 2.0, 4.0):
        budget = allocation.lowest(ladders) + above
        rungs, _ = allocation.by_bits(ladders, effects, budget, per_layer=False)
        assert {name: each.tolist() for name, each in rungs.items()} == one_by_one(ladders, budget)


def test_a_rung_of_the_same_bits_is_taken_where_it_is_better() -> None:
    made = ladder(2, 64)
    rungs = (made.rungs[0], made.rungs[0], made.rungs[1])
    error = torch.tensor([[4.0, 4.0], [1.0, 5.0], [0.5, 3.5]])
    found = Ladder(rungs, error, made.power)
    bits = allocation.lowest({"a": found})
    assert allocation.by_bits({"a": found}, {"a": 1.0}, bits + 0.1, per_layer=False)[0]["a"].tolist() == [1, 0]


def test_rows_of_zeros_get_no_points() -> None:
    scale = torch.ones(40, 1)
    scale[:30] = 0
    rungs, _ = allocation.by_bits({"a": ladder(40, 64, scale=scale)}, {"a": 1.0}, 8.0, per_layer=False)
    assert (rungs["a"][:30] == 0).all()
    assert (rungs["a"][30:] == 1).all()


def test_more_bits_than_everything_takes() -> None:
    rungs, spent = allocation.by_bits({"a": ladder(40, 64)}, {"a": 1.0}, 32.0, per_layer=False)
    assert (rungs["a"] == 1).all()
    assert spent < 10


@pytest.mark.parametrize("columns", [7, 11, 24, 33, 64, 97])
def test_less_bits_than_one_point_takes(columns: int) -> None:
    """Whoever gives the number that is said has it accepted, and one digit less has not."""
    ladders = {"a": ladder(40, columns)}
    with pytest.raises(OptionError, match=r"give at least as much") as caught:
        allocation.by_bits(ladders, {"a": 1.0}, 4.0, per_layer=False)
    (least,) = re.findall(r"--bits 4 is below the (\S+) bits", str(caught.value))
    allocation.by_bits(ladders, {"a": 1.0}, float(least), per_layer=False)
    with pytest.raises(OptionError, match=re.escape(f"is below the {least} bits")):
        allocation.by_bits(ladders, {"a": 1.0}, float(least) - 0.0011, per_layer=False)


@pytest.mark.parametrize("per_layer", [False, True])
def test_exactly_the_bits_that_the_lowest_rungs_take(*, per_layer: bool) -> None:
    """Times the number of weights they are a little less, of 24 columns for every third number of rows."""
    for rows in (8, 9, 17, 34):
        ladders = {"a": ladder(rows, 24)}
        rungs, _ = allocation.by_bits(ladders, {"a": 1.0}, allocation.lowest(ladders), per_layer=per_layer)
        assert (rungs["a"] == 0).all()


@pytest.mark.parametrize("tolerance", [0.3, 1e-2, 1e-3])
def test_tolerance_is_the_fewest_rungs_that_hold_it(tolerance: float) -> None:
    found = ladder(40, 64, base="int2")
    rungs = allocation.by_tolerance({"a": found}, tolerance, per_layer=False)["a"]
    for row, rung in enumerate(rungs.tolist()):
        assert found.error[rung, row] <= tolerance * found.power[row]
        assert rung == 0 or found.error[rung - 1, row] > tolerance * found.power[row]


def test_tolerance_per_layer() -> None:
    rungs = allocation.by_tolerance({"a": ladder(40, 64)}, 1e-3, per_layer=True)["a"]
    assert (rungs == 1).all()


def test_a_number_is_capped_at_what_fits() -> None:
    rungs = allocation.all_on({"a": ladder(4, 64), "b": ladder(4, 64, base="int2")}, 3)
    assert rungs["a"].tolist() == [1] * 4
    assert rungs["b"].tolist() == [3] * 4


def test_errors_that_are_not_finite_are_refused() -> None:
    wrong = replace(ladder(4, 64), whole=True, error=torch.full((3, 4), torch.nan))
    with pytest.raises(OptionError, match=r"the errors of a are beyond float32, .*; scale"):
        allocation.by_bits({"a": wrong}, {"a": 1.0}, 6.0, per_layer=False)


@pytest.mark.parametrize("per_layer", [False, True])
def test_errors_beyond_float32_are_refused(*, per_layer: bool) -> None:
    made = ladder(8, 16)
    made.error[0, 3] = torch.nan
    with pytest.raises(OptionError, match="the errors of a are beyond float32"):
        allocation.by_bits({"a": made}, {"a": 1.0}, 5.0, per_layer=per_layer)


@pytest.mark.parametrize("per_layer", [False, True])
def test_smaller_rungs_than_an_exact_base_are_told_apart_by_their_own_errors(*, per_layer: bool) -> None:
    """The effect of an exact base is 0, and says nothing of what is below it."""
    ladders = {"a": ladder(8, 16), "b": ladder(8, 16)}
    for made in ladders.values():
        made.error[1:] = 0.0
    ladders["b"].error[0] *= 1e-3
    ladders = {name: replace(made, base=1) for name, made in ladders.items()}
    bits = [allocation.lowest({name: replace(m, rungs=m.rungs[k:])}) for k, (name, m) in enumerate(ladders.items())]
    rungs, _ = allocation.by_bits(ladders, {"a": 0.0, "b": 0.0}, sum(bits) / 2, per_layer=per_layer)
    assert (rungs["a"] == 1).all()
    assert (rungs["b"] == 0).all()
