"""Rules for layers on a real network: which decides, and that the file is what they say."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pytest

import ptq
from ptq.errors import OptionError
from ptq.model.capture import CaptureOptions, capture
from ptq.model.graph import Model
from ptq.pipeline.result import Result
from ptq.recipe import Plan, Recipe
from ptq.report import LayerReport

ROOT = Path(__file__).parents[1]


def plan(model: Model, *rules: dict[str, Any], has_data: bool = True, **options: Any) -> Plan:
    return Recipe.of({**options, "layers": list(rules)}).plan(model.sites, has_data=has_data)


def by_layer(result: Result) -> dict[str, LayerReport]:
    return {layer.site: layer for layer in result.report.layers}


def test_the_last_rule_that_matches_decides_alone(digits_model: Model) -> None:
    made = plan(
        digits_model,
        {"op": "Conv", "weights": "int6", "points": 1},
        {"match": r"^blocks\.", "weights": "int3"},
        {"match": r"^blocks\.0", "first": False, "points": 2},
        method="multipoint",
        bits=4.4,
    )
    formats = {name: (made.sites[name].said.weights, made.sites[name].said.points) for name in made.sites}
    assert formats["stem.0"] == ("int6", 1)
    assert formats["blocks.1.conv1"] == ("int3", None), "nothing of the rule before it"
    assert formats["blocks.0.conv1"] == ("int4", 2), "nothing of either"
    assert formats["classifier"] == ("int4", None)
    rules = {decided.rule for decided in made.sites.values()}
    assert rules == {"rule 1 (op 'Conv')", r"rule 2 (match '^blocks\.')", r"rule 3 (match '^blocks\.0')", None}
    counts = {site.name: site.rows * site.columns for site in digits_model.sites}
    free = [name for name, decided in made.sites.items() if decided.budgeted]
    assert set(free) == {name for name, (_, points) in formats.items() if points is None}
    base = sum(int(formats[name][0][-1]) * counts[name] for name in free) / sum(counts[name] for name in free)
    assert made.base_bits == pytest.approx(base)
    assert made.budget == 4.4
    assert made.measures


def test_the_ends_are_those_of_what_computes() -> None:
    attention = Model.of(capture(graphs.attention(), CaptureOptions(), None))
    computing = [site.name for site in attention.sites if site.op != "Gather"]
    assert len(computing) < len(attention.sites)
    for ends, wanted in (
        ({"first": True}, {computing[0]}),
        ({"last": True}, {computing[-1]}),
        ({"first": True, "last": True}, {computing[0], computing[-1]}),
    ):
        made = plan(attention, {**ends, "weights": "int8", "points": 1})
        assert {name for name, decided in made.sites.items() if decided.rule} == wanted


def test_first_last_and_keep_float_are_rules(digits_model: Model) -> None:
    names = [site.name for site in digits_model.sites]
    sugar = plan(digits_model, first_last="int8", keep_float=("blocks.0",), method="gptq", group="32")
    eight = {"first": True, "last": True, "weights": "int8", "group": "channel"}
    said = plan(digits_model, eight, {"match": "blocks.0", "keep_float": True}, method="gptq", group=32)
    assert sugar.methods == said.methods
    assert [name for name, method in sugar.methods.items() if method is None] == names[1:3]
    assert sugar.reasons[names[1]] == "kept in float by --keep-float 'blocks.0'"
    assert sugar.sites["classifier"].rule == "--first-last int8"
    over = plan(digits_model, {"match": "classifier", "weights": "int6"}, first_last="int8", keep_float=("stem",))
    assert over.sites["classifier"].said.weights == "int6"
    assert over.methods["stem.0"] is None


def test_a_format_with_groups_of_its_own_takes_over_no_group(digits_model: Model) -> None:
    made = plan(digits_model, {"match": "classifier", "weights": "mxfp4"}, method="rtn", group=64, activations="none")
    assert made.methods["classifier"].scheme.group == 32  # type: ignore[union-attr]
    assert made.methods["stem.0"].scheme.group == 64  # type: ignore[union-attr]


def test_what_rules_say_is_in_the_file(digits: Path, digit_images: dict[str, np.ndarray]) -> None:
    rules = [
        {"op": "Conv", "first": True, "method": "rtn", "weights": "nf4", "activations": "none"},
        {"match": r"blocks\.[01]", "method": "multipoint", "weights": "int2", "points": 3},
        {"match": "shortcut", "keep_float": True},
        {"match": "^classifier$", "group": 32},
    ]
    result = ptq.quantize(digits, digit_images, method="rtn", weights="int6", layers=rules)
    found = by_layer(result)
    assert (found["stem.0"].format, found["stem.0"].execution) == ("nf4", "weights")
    assert (found["classifier"].format, found["classifier"].kernel) == ("int6/32", "QGemm")
    for name, layer in found.items():
        if ".shortcut." in name:
            assert (layer.format, layer.execution) == ("float32", "float")
            assert layer.note == "kept in float by rule 3 (match 'shortcut')"
        elif name.startswith(("blocks.0", "blocks.1")):
            assert layer.format == "int2"
            assert layer.points == (0, 0, layer.shape[0])
        elif name.startswith("blocks"):
            assert (layer.format, layer.kernel) == ("int6", "QLinearConv")
    plain = by_layer(ptq.quantize(digits, digit_images, method="rtn", weights="int6"))
    assert plain["blocks.4.conv1"].weight_sqnr_db == found["blocks.4.conv1"].weight_sqnr_db


def test_points_of_a_rule_are_outside_the_budget(digits: Path, digit_images: dict[str, np.ndarray]) -> None:
    rules = [
        {"match": r"blocks\.[34]", "method": "multipoint", "points": 2},
        {"match": "classifier", "method": "multipoint"},
    ]
    found = by_layer(ptq.quantize(digits, digit_images, method="rtn", weights="int4", bits=6.2, layers=rules))
    assert found["blocks.3.conv1"].points == (0, 96)
    assert found["blocks.0.conv1"].points == (32,)
    assert 5 < found["classifier"].bits_per_weight <= 6.2


def test_rules_for_tables() -> None:
    ids = {"ids": np.random.default_rng(0).integers(0, 50, (8, 9))}
    rules = [{"op": "Gather", "weights": "int4"}]
    found = {layer.op: layer for layer in ptq.quantize(graphs.attention(), ids, layers=rules).report.layers}
    assert found["Gather"].format == "int4/16", "groups of 32 that fill the 16 columns"
    assert {layer.format for op, layer in found.items() if op != "Gather"} == {"int4"}
    attention = Model.of(capture(graphs.attention(), CaptureOptions(), None))
    made = plan(attention, {"match": ".", "method": "gptq", "weights": "int8"}, embeddings="none")
    assert all(decided.method is not None for decided in made.sites.values()), "the rule says a format, so it is taken"
    made = plan(attention, {"match": ".", "method": "gptq"}, embeddings="none")
    assert [name for name, method in made.methods.items() if method is None] == [
        site.name for site in attention.sites if site.op == "Gather"
    ]
    with pytest.raises(OptionError, match="method does nothing for embedding"):
        plan(attention, {"op": "Gather", "method": "gptq", "weights": "int8"})


def test_activations_of_a_rule_on_another_target(digits: Path, digit_images: dict[str, np.ndarray]) -> None:
    rules = [{"match": "classifier", "weights": "int4", "group": 32, "activations": "none"}]
    found = by_layer(ptq.quantize(digits, digit_images, recipe="int8", target="cuda", layers=rules))
    assert (found["classifier"].format, found["classifier"].execution) == ("int4/32", "dequantized")
    assert {layer.execution for layer in found.values() if layer.site != "classifier"} == {"qdq"}


def test_simulated_activations_beside_float_ones(digits: Path, digit_images: dict[str, np.ndarray]) -> None:
    rules = [{"match": r"blocks\.[01]", "weights": "int8", "activations": "none"}]
    found = by_layer(ptq.quantize(digits, digit_images, recipe="fp8", layers=rules))
    assert {layer.execution for layer in found.values() if layer.format == "int8"} == {"weights"}
    assert {layer.execution for layer in found.values() if layer.format == "fp8_e4m3fn"} == {"simulated"}


def test_the_recipe_of_the_readme_runs(digits: Path, digit_images: dict[str, np.ndarray], tmp_path: Path) -> None:
    part = (ROOT / "README.md").read_text(encoding="utf-8").partition("<!-- begin: a recipe -->")[2]
    path = tmp_path / "mine.toml"
    path.write_text(part.partition("```toml\n")[2].partition("```")[0], encoding="utf-8")
    result = ptq.quantize(digits, digit_images, recipe=path)
    found = by_layer(result)
    assert found["stem.0"].format == found["classifier"].format == "int8"
    assert found["blocks.0.conv1"].points == (0, 32)
    assert found["blocks.1.shortcut.0"].note == r"kept in float by mine.toml: rule 4 (match 'shortcut\.0$')"
    assert found["blocks.3.conv1"].format in {"int4", "int5"}  # the widest that a row has
    assert result.report.options["bits"] == 4.4
