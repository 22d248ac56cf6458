"""What `--dry-run` says is what the run then does; it writes nothing."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import pytest
from click.testing import CliRunner
from small_folder import Folder, filled
from step_networks import NETWORKS, feeds

import ptq
import ptq.errors
from cli.main import commands
from ptq import presets, scheme
from ptq.fitted import FITTED
from ptq.pipeline import Job, Stages, preview
from ptq.recipe import chosen
from ptq.report import Outline, Report

STEADY = ("site", "op", "shape", "method", "format", "execution", "rule", "note")
QUICK = ("int4", "w4a8")
PLAIN = [name for name in presets.NAMES if "steps" not in presets.options(name)]
STEPPED = [name for name in presets.NAMES if name not in PLAIN]


def both(model: Any, data: Any, recipe: Any, **options: Any) -> tuple[Outline, Report]:
    planned = preview(Job(model, data), chosen(recipe, options), Stages())
    return planned, ptq.quantize(model, data, recipe=recipe, **options).report


def without_widths(name: str) -> str:
    """The kind of a format: under a budget some rows may have wider ones."""
    return re.sub(r"\d+", "", name)


def check(planned: Outline, report: Report) -> None:
    """All that does not depend on the numbers; sizes to the byte where there is no budget."""
    assert planned.options == report.options
    assert planned.steps == tuple(report.stages)
    assert planned.data == report.data
    for layer, made in zip(planned.layers, report.layers, strict=True):
        note = made.note if made.execution == "float" else layer.note
        steady = [name for name in STEADY[:-1] if name != "format" or not layer.budgeted]
        assert [getattr(layer, name) for name in steady] == [getattr(made, name) for name in steady]
        kinds = {without_widths(layer.format), *(["int"] if layer.budgeted else [])}  # beyond the widest of a kind
        assert without_widths(made.format) in kinds
        assert layer.note == note
        assert (layer.method is None) is (made.execution == "float")
        assert layer.bytes <= made.bytes if layer.budgeted else layer.bytes == made.bytes
    if not any(layer.budgeted for layer in planned.layers):
        assert planned.bytes == sum(layer.bytes for layer in report.layers)
        assert planned.bits_per_weight == pytest.approx(report.bits_per_weight, rel=1e-3)
    elif planned.options["bits"] is not None:
        assert planned.bits_per_weight == pytest.approx(report.bits_per_weight, abs=0.02)


@pytest.mark.parametrize("name", [pytest.param(n, marks=() if n in QUICK else pytest.mark.slow) for n in PLAIN])
def test_every_recipe_does_what_was_planned(name: str, digits: Path, digit_images: dict[str, np.ndarray]) -> None:
    planned, report = both(digits, digit_images, name)
    check(planned, report)
    assert {layer.method for layer in planned.layers} == {report.options["method"]}
    assert report.accuracy is not None
    assert report.accuracy.sqnr_db is not None
    assert report.accuracy.sqnr_db > 15
    if report.options["activations"] == "none":
        assert set(report.kernels) <= {"Conv", "Gemm", "MatMulNBits"}
    if name in ("int8", "w4a8", "w4a8-multipoint"):
        assert all(layer.integer for layer in report.layers)


@pytest.mark.parametrize("name", STEPPED)
def test_recipes_with_steps(name: str) -> None:
    proto = NETWORKS["tokens"]
    planned, report = both(proto, feeds(proto), name)
    check(planned, report)
    assert set(presets.options(name)["steps"]) < set(planned.steps)
    plain = ptq.quantize(proto, feeds(proto), recipe=name, steps=()).report
    assert plain.accuracy is not None
    assert report.accuracy is not None
    assert (report.accuracy.sqnr_db or 0) > (plain.accuracy.sqnr_db or 0)


@pytest.mark.parametrize(
    "options",
    [
        {"points": 2},
        {"points": 2, "weights": "uint4"},
        {"points": 2, "group": "tensor"},
        {"points": 3, "weights": "int2"},
        {"layers": [{"match": "conv1", "points": 2}, {"last": True, "weights": "int8", "points": 1}]},
    ],
    ids=str,
)
def test_points_that_are_said_are_counted(options: dict[str, Any], digits: Path) -> None:
    planned, report = both(digits, None, options)
    check(planned, report)


@pytest.mark.parametrize("bits", [3.5, 5.0])
def test_layers_narrower_than_the_format_that_is_named(bits: float) -> None:
    proto = graphs.residual()
    planned, report = both(proto, feeds(proto), {"method": "mixed", "weights": "int4", "bits": bits})
    assert planned.bits_per_weight == pytest.approx(report.bits_per_weight, abs=0.2)
    assert all(layer.bytes <= made.bytes for layer, made in zip(planned.layers, report.layers, strict=True))


def test_time_alone_pays_for_the_widest(digits: Path, digit_images: dict[str, np.ndarray]) -> None:
    recipe = {"method": "mixed", "weights": "int4", "activations": "uint8", "max_latency": 5.0}
    planned = preview(Job(digits, digit_images), chosen(recipe, {}), Stages())
    assert planned.bits_per_weight == pytest.approx(8.1, abs=0.1)


@pytest.mark.parametrize("name", ["int8-weights", "int4"])
def test_recipes_without_data(name: str, digits: Path) -> None:
    planned, report = both(digits, None, name)
    check(planned, report)
    assert planned.steps == ("capture", "quantize", "lower", "audit")
    assert not any(layer.statistics for layer in planned.layers)


@pytest.mark.parametrize("target", ["cuda", "tensorrt"])
@pytest.mark.parametrize("name", ["int8", "fp8"])
def test_recipes_for_other_targets(name: str, target: str, digits: Path, digit_images: dict[str, np.ndarray]) -> None:
    planned, report = both(digits, digit_images, name, target=target)
    check(planned, report)
    assert {layer.execution for layer in report.layers} == {"qdq"}


@pytest.mark.slow
@pytest.mark.parametrize("weights", [name for name in scheme.known() if name not in FITTED])
def test_sizes_of_all_formats(weights: str, digits: Path) -> None:
    try:
        planned, report = both(digits, None, {"method": "rtn", "weights": weights})
    except ptq.errors.OptionError as error:
        assert "no zero" in str(error)  # noqa: PT017  (formats of scales)
        return
    for layer, made in zip(planned.layers, report.layers, strict=True):
        assert layer.bytes == pytest.approx(made.bytes, abs=1)  # bits of values and of zero points fill bytes apart


def test_rules_tables_and_smoothing() -> None:
    ids = {"ids": np.random.default_rng(0).integers(0, 50, (8, 9))}
    recipe = {"layers": [{"op": "Gather", "weights": "int4"}, {"last": True, "weights": "int8", "points": 1}]}
    planned, report = both(graphs.attention(), ids, recipe, method="multipoint", bits=4.5)
    assert planned.steps == tuple(report.stages)
    assert [layer.rule for layer in planned.layers if layer.op == "Gather"] == ["recipe: rule 1 (op 'Gather')"]
    assert [layer.method for layer in planned.layers if layer.op == "Gather"] == ["rtn"]
    assert planned.layers[-1].rule == "recipe: rule 2 (last)"
    assert [layer.format for layer in planned.layers] == [layer.format for layer in report.layers]
    assert [layer.budgeted for layer in planned.layers][-1] is False


def test_statistics_are_those_that_methods_want(digits: Path, digit_images: dict[str, np.ndarray]) -> None:
    rules = [{"match": "blocks.0", "method": "gptq"}, {"match": "blocks.1", "keep_float": True}]
    planned = preview(Job(digits, digit_images), chosen({"method": "rtn", "layers": rules}, {}), Stages())
    for layer in planned.layers:
        wanted = {"blocks.0": ("moment",), "blocks.1": ()}.get(layer.site[:8], ("mean",))
        assert layer.statistics == wanted
    assert planned.ranges > 0
    assert planned.reserved == 0
    planned = preview(Job(digits, digit_images), chosen("w4a8-multipoint", {}), Stages())
    assert planned.reserved > 0
    assert "allocate" in planned.steps


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return filled(tmp_path)


def test_the_command_writes_nothing_but_what_it_is_told_to(folder: Folder) -> None:
    before, report = folder.names(), folder.path / "plan.json"
    command = ["quantize", folder.model, "--data", folder.data, "-o", folder.output, "--dry-run", "--keep-float", "two"]
    run = CliRunner().invoke(commands, list(map(str, command)), catch_exceptions=False)
    assert run.exit_code == 0
    assert folder.names() == before
    rows = {words[0]: words for words in map(str.split, run.output.splitlines()) if words}
    assert rows["one"][1:5] == ["Conv", "8x3x3x3", "multipoint", "int4"]
    assert rows["two"][-6:] == ["kept", "in", "float", "by", "--keep-float", "'two'"]
    assert "moment of the inputs of 2 layers" in run.output
    assert run.output.splitlines()[-1] == "nothing was written: --dry-run"
    folder.output.write_text("precious")
    run = CliRunner().invoke(commands, [*map(str, command), "--json", str(report)], catch_exceptions=False)
    assert folder.names() == {*before, "plan.json", "out.onnx"}
    assert folder.output.read_text() == "precious"
    said = json.loads(report.read_text())
    assert [layer["site"] for layer in said["layers"]] == ["one", "two", "three"]
    assert said["layers"][1]["note"] == "kept in float by --keep-float 'two'"


def test_a_plan_that_fails_says_why(folder: Folder) -> None:
    command = ["quantize", str(folder.model), "--dry-run", "--recipe", "int4-gptq"]
    with pytest.raises(ptq.errors.OptionError, match="--method gptq needs calibration data"):
        CliRunner().invoke(commands, command, catch_exceptions=False)
