"""`ptq sweep`: a grid of recipes, calibrated once, whose files are kept and are those of `ptq quantize`."""

from __future__ import annotations

import hashlib
import json
import shlex

import numpy as np
import onnx
import pytest
from command import Command
from small_folder import Folder

import ptq as library
from ptq.errors import OptionError
from ptq.pipeline import findings
from ptq.pipeline.manifest import digest
from ptq.recipe import Recipe, Rule
from ptq.recipe.grid import grid, parse_bits, words


def swept(ptq: Command, folder: Folder, *arguments: object) -> dict[str, object]:
    report = folder.path / "sweep.json"
    run = ptq(
        *("sweep", folder.model, "-o", folder.path / "files", "--data", folder.data, "--eval", folder.data),
        *("--max-drop", 1, "--json", report, "--overwrite", *arguments),
    )
    assert run.code == 0, run.err
    said: dict[str, object] = json.loads(report.read_text())
    return said


GRID = ("--methods", "multipoint,rtn", "--bits", "6.5,8")


def test_files_are_those_of_quantize(folder: Folder, ptq: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    calibrated = []
    calibrate = findings.calibrate
    monkeypatch.setattr(findings, "calibrate", lambda *a, **k: calibrated.append(1) or calibrate(*a, **k))
    said = swept(ptq, folder, *GRID)
    assert len(calibrated) == 2  # rtn needs no second moments
    points = {point["name"]: point for point in said["points"]}
    assert set(points) == {*(f"multipoint-{bits}" for bits in ("6.5", "8")), "rtn-int8"}
    assert not any(point["refused"] or point["kept"] for point in points.values())
    for name in ("multipoint-6.5", "rtn-int8"):
        words_ = shlex.split(points[name]["command"])
        assert words_[:2] == ["ptq", "quantize"]
        alone = folder.path / "alone.onnx"
        assert ptq(*words_[1:-1], alone, "--overwrite").code == 0
        assert alone.read_bytes() == (folder.path / "files" / f"{name}.onnx").read_bytes()


def test_a_rerun_keeps_what_is_there(folder: Folder, ptq: Command) -> None:
    grid_ = ("--methods", "rtn", "--bits", "4,8")
    swept(ptq, folder, *grid_)
    files = folder.path / "files"
    (files / "rtn-int8.onnx").unlink()
    before = (files / "rtn-int4.onnx").stat()
    said = swept(ptq, folder, *grid_)
    assert [point["kept"] for point in said["points"]] == [True, False]
    assert (files / "rtn-int4.onnx").stat().st_ino == before.st_ino
    with np.load(folder.data) as arrays:  # other data, another file
        np.savez(folder.data, **{name: arrays[name][:8] for name in arrays.files})
    assert [point["kept"] for point in swept(ptq, folder, *grid_)["points"]] == [False, False]


def test_a_file_is_made_anew_when_weights_beside_the_model_change(folder: Folder, ptq: Command) -> None:
    options = {"save_as_external_data": True, "location": "weights", "size_threshold": 0}
    model = onnx.load(folder.model)
    onnx.save(model, folder.model, **options)
    before = digest(folder.model)
    assert before == hashlib.sha256(folder.model.read_bytes() + (folder.path / "weights").read_bytes()).hexdigest()
    grid_ = ("--methods", "rtn", "--bits", "8")
    assert [point["kept"] for _ in range(2) for point in swept(ptq, folder, *grid_)["points"]] == [False, True]
    weights = bytearray((folder.path / "weights").read_bytes())
    weights[2] ^= 1
    (folder.path / "weights").write_bytes(weights)
    assert [point["kept"] for point in swept(ptq, folder, *grid_)["points"]] == [False]


def test_a_file_of_somebody_else_stays(folder: Folder, ptq: Command) -> None:
    there = folder.path / "files" / "rtn-int8.onnx"
    there.parent.mkdir()
    there.write_bytes(folder.model.read_bytes())
    run = ptq(
        *("sweep", folder.model, "-o", there.parent, "--data", folder.data, "--eval", folder.data),
        *("--methods", "rtn", "--bits", 8),
    )
    run.fails("rtn-int8.onnx exists and is not of a sweep; give another -o")
    assert there.read_bytes() == folder.model.read_bytes()


def test_what_cannot_be_is_said_and_the_rest_goes_on(folder: Folder, ptq: Command) -> None:
    html = folder.path / "sweep.html"
    said = swept(ptq, folder, "--methods", "rtn,gptq,multipoint", "--bits", "1.5,8", "--html", html)
    refused = {point["name"]: point["refused"] for point in said["points"] if point["refused"]}
    assert set(refused) == {"multipoint-1.5"}
    assert "--bits 1.5 is below" in refused["multipoint-1.5"]
    text = html.read_text()
    assert "refused: --bits 1.5 is below" in text
    assert "ptq sweep" in text


def test_no_point_that_fits(folder: Folder, ptq: Command) -> None:
    run = ptq("sweep", folder.model, "--eval", folder.data, "--methods", "gptq", "--bits", 4)
    run.fails("no recipe of 1 fits the model: gptq-int4: --method gptq needs calibration data", code=2)


@pytest.mark.parametrize(
    ("text", "numbers"),
    [("4", (4,)), ("3,4.25", (3, 4.25)), ("3:5:0.5", (3, 3.5, 4, 4.5, 5)), ("3:4:0.3,8", (3, 3.3, 3.6, 3.9, 8))],
)
def test_numbers_of_bits(text: str, numbers: tuple[float, ...]) -> None:
    assert parse_bits(text) == pytest.approx(numbers)


@pytest.mark.parametrize("text", ["", "four", "3:5", "5:3:1", "3:5:0", "3:5:-1", "0:1e9:1", "nan", "3:inf:1"])
def test_what_is_no_number_of_bits(text: str) -> None:
    with pytest.raises(OptionError, match=r"--bits .* is no.*; give numbers with commas"):
        parse_bits(text)


def test_the_words_of_a_recipe_say_it_again() -> None:
    recipe = Recipe.of(
        {
            "method": "mixed",
            "steps": ["smoothquant", "awq"],
            "bits": 4.25,
            "among": ["int4", "int8"],
            "portable": True,
            "keep_float": ["a b", "c"],
            "alpha": 0.25,
        }
    )
    said = words(recipe)
    assert said[:2] == ["--method", "mixed"]
    assert said.count("--step") == 2
    assert {"--portable", "int4,int8", "4.25", "a b", "0.25"} <= set(said)
    assert words(Recipe()) == []
    assert words(Recipe(layers=(Rule.of({"match": "x", "points": 2}, ""),))) == []


def test_a_method_of_one_format_takes_whole_bits() -> None:
    points, refused = grid(["gptq", "multipoint"], [3, 3.5], {})
    assert [point.name for point in points] == ["gptq-int3", "multipoint-3", "multipoint-3.5"]
    assert refused == {}
    points, _ = grid(["gptq"], [3, 3.5], {"weights": "nf4"})
    assert [(point.name, point.recipe.weights) for point in points] == [("gptq-nf4", "nf4")]
    with pytest.raises(OptionError, match="unknown --methods 'multi'"):
        grid(["multi"], [4], {})
    with pytest.raises(OptionError, match="no point of the grid is left"):
        grid(["gptq"], [3.5], {})


def test_from_python(folder: Folder) -> None:
    found = library.sweep(
        folder.model, folder.data, eval_data=folder.data, folder=folder.path / "s", methods=["rtn"], bits=[4, 8]
    )
    assert [point.name for point in found.points] == ["rtn-int4", "rtn-int8"]
    assert len(found.comparison.files) == 2
