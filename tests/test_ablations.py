"""The ablations: random choice spends the same bits, greedy errors are what they are said to be, all has a page."""

from __future__ import annotations

import importlib
import math
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch
from click.testing import CliRunner
from small_folder import filled

from ptq import allocation, formats
from ptq.ladder import Ladder
from ptq.methods.multipoint import Multipoint
from ptq.scheme import Scheme
from ptq.solve import Curvature

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
COLUMNS = {"one": 32, "two": 64}
BITS = 4.9

Modules = Callable[[str], ModuleType]


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Modules:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def ladders() -> dict[str, Ladder]:
    rng = torch.Generator().manual_seed(0)
    method = Multipoint(Scheme(formats.get("int4")), rounding="nearest", last=formats.get("int2"))
    return {
        name: method.ladder(torch.randn(1, 40, columns, generator=rng), Curvature.unknown(1, columns))
        for name, columns in COLUMNS.items()
    }


EFFECTS = {"one": 3.0, "two": 1.0}


def stored(ladders: dict[str, Ladder], rungs: allocation.Rungs) -> float:
    bits = sum(ladder.pick(rungs[name]).storage_bits for name, ladder in ladders.items())
    return bits / sum(rows * columns for rows, columns in (ladder.shape for ladder in ladders.values()))


@pytest.mark.parametrize("name", ["within_layers", "everywhere"])
def test_random_choice_spends_the_same_bits_on_other_rows(
    module: Modules, ladders: dict[str, Ladder], name: str
) -> None:
    choices = module("ablation_choices")
    adaptive, spent = allocation.by_bits(ladders, EFFECTS, BITS, per_layer=False)
    drawn = [getattr(choices, name)(seed)(ladders, EFFECTS, BITS, per_layer=False) for seed in (0, 0, 1)]
    for rungs, bits in drawn:
        assert bits == pytest.approx(stored(ladders, rungs))
        assert BITS - 0.05 <= bits <= BITS
        assert bits == pytest.approx(spent, abs=0.05)
        assert any(not torch.equal(rungs[each], adaptive[each]) for each in rungs)
    first, again, other = (rungs for rungs, _ in drawn)
    assert all(torch.equal(first[each], again[each]) for each in first)
    assert any(not torch.equal(first[each], other[each]) for each in first)
    if name == "within_layers":
        assert all(torch.equal(first[each].sort().values, adaptive[each].sort().values) for each in first)
    else:
        assert all(int(each.max()) == 1 for each in first.values())  # the second rung comes when all are on the first


def test_the_pipeline_has_its_own_choice_again(module: Modules) -> None:
    choices, own = module("ablation_choices"), allocation.by_bits
    with choices.chosen_by(choices.everywhere(0)):
        assert allocation.by_bits is not own
    assert allocation.by_bits is own


def test_errors_of_random_rows_decay_exponentially_and_within_the_bound(module: Modules) -> None:
    decays = list(module("ablation_decay").of_random_rows(8))
    factors = {(each.format, each.columns): each.factor for each in decays}
    for each in decays:
        assert each.output == pytest.approx(each.weight)
        assert each.straightness > 0.9
        assert each.factor < each.bound
        assert each.holds
        assert all(left <= each.bound**n for n, left in enumerate(each.weight, 1))
    for columns in {columns for _, columns in factors}:
        assert factors["int4", columns] < factors["int3", columns] < factors["int2", columns] < 0.5


def test_the_factor_is_that_of_a_geometric_series(module: Modules) -> None:
    made = module("ablation_decay").Decay
    exact = made("x", "int4", 2, (0.6, 0.1), tuple(0.5 * 0.1**n for n in range(8)))
    assert exact.factor == pytest.approx(0.1)
    assert exact.straightness == pytest.approx(1)
    assert not exact.holds  # 0.6 is above 1 - 1 / 2
    assert math.isnan(made("x", "int4", 1, (0.0,), (0.0,)).factor)


def test_errors_of_outputs_are_those_of_the_inputs_of_each_group(module: Modules) -> None:
    rng = torch.Generator().manual_seed(1)
    weight = torch.randn(6, 16, generator=rng)
    inputs = torch.randn(2, 50, 16, generator=rng).double()
    gram, group = inputs.transpose(1, 2) @ inputs / 50, torch.arange(6) // 3
    found = module("ablation_decay").decay("x", "int3", weight, gram, group)
    multipoint = module("ptq.methods.multipoint.greedy")
    (point,) = multipoint.greedy_rows(weight, 3, 1)
    outputs = [(inputs[g] @ weight[group == g].double().T) for g in (0, 1)]
    rounded = [(inputs[g] @ point.dequantized()[group == g].T) for g in (0, 1)]
    error = sum(float((a - b).square().sum()) for a, b in zip(outputs, rounded, strict=True))
    assert found.output[0] == pytest.approx(error / sum(float(each.square().sum()) for each in outputs))


@pytest.mark.slow
def test_a_page_of_every_ablation(module: Modules, tmp_path: Path) -> None:
    folder, page = filled(tmp_path), tmp_path / "new/page.md"
    options = ["--data", folder.data, "--eval", folder.data, "--page", page, "--seeds", 2]
    run = CliRunner().invoke(module("ablations").main, list(map(str, [folder.model, *options, "--bits", 4.6])))
    assert run.exit_code == 0, run.output
    said = page.read_text()
    tables = [part.splitlines() for part in said.split("\n## ")[1:]]
    assert [table[0] for table in tables] == list(module("ablations")._TITLES.values())
    names = [[line.split("|")[1].strip() for line in table if line.startswith("| ")][1:] for table in tables]
    assert names[0] == [
        "4.6 bits: by what they do to the output",
        "4.6 bits: as many in each layer, drawn at random",
        "4.6 bits: drawn at random from all",
    ]
    assert names[1] == ["one point of int4 everywhere", "4.6 bits where they pay", "two points of int4 everywhere"]
    assert names[3] == [
        *(f"4.6 bits: mixed, {metric}" for metric in ("sensitivity", "ompq")),
        *(f"4.6 bits: points by {what}" for what in ("layer", "channel")),
    ]
    assert names[4][:3] == ["layers"] * 3
    assert " ± " in tables[0][5]
    assert all("% top-1" in line for table in tables[:4] for line in table[4:] if line)


@pytest.mark.slow
def test_what_is_refused_says_so_and_the_figure_has_both_formats(module: Modules, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="needs pip install -e '.[benchmarks]'")
    folder, page = filled(tmp_path), tmp_path / "page.md"
    options = ["--data", folder.data, "--eval", folder.data, "--page", page, "--bits", 4.01]
    options += ["--only", "ocs", "--only", "decay", "--figure", tmp_path / "new/decay"]
    run = CliRunner().invoke(module("ablations").main, list(map(str, [folder.model, *options])))
    assert run.exit_code == 0, run.output
    assert "| 4.01 bits: ocs, to nearest |  | refused: --bits 4.01 is below the " in page.read_text()
    assert (tmp_path / "new/decay.png").read_bytes().startswith(b"\x89PNG")
    assert ">int4, median of 3 layers</t" in (tmp_path / "new/decay.svg").read_text()
