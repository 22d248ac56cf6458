"""`ptq diagnose`: the layers that cost most, and proposals that were tried."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command import Command
from small_folder import Folder

from ptq.errors import DataError
from ptq.evaluate import evaluate
from ptq.model.session import Session
from ptq.pipeline import Diagnosed, Job, Stages, diagnose
from ptq.recipe import Recipe

RULES = {"method": "rtn", "weights": "int8", "layers": [{"match": "^two$", "weights": "int3"}]}


def test_the_worst_layer_is_found_and_float_helps(folder: Folder) -> None:
    recipe = Recipe.of(RULES)
    found = diagnose(Diagnosed(Job(folder.model, folder.data, folder.data), recipe, 8), Stages())
    assert found.layers[0].site == "two"
    assert {layer.site for layer in found.layers} == {"one", "two", "three"}
    assert found.whole.samples == 8
    worst = found.layers[0]
    assert worst.without.sqnr_db > found.whole.sqnr_db + 3
    assert worst.alone.sqnr_db < min(layer.alone.sqnr_db for layer in found.layers[1:])
    assert worst.float_bytes == 4 * 16 * 8 * 9
    assert 0 < worst.bytes < worst.float_bytes / 4
    assert worst.ms is not None
    assert worst.float_ms is not None
    tried = {point.name: point for point in found.tried.points}
    assert set(tried) == {"as-it-is", "float-1-worst", "first-last-int8", "gptq"}
    files = {Path(file.path).stem: file for file in found.tried.comparison.files}
    assert files["float-1-worst"].accuracy.sqnr_db > files["as-it-is"].accuracy.sqnr_db + 3
    assert tried["float-1-worst"].command is None  # options do not say rules


def test_without_a_layer_is_what_keep_float_gives(folder: Folder, ptq: Command) -> None:
    recipe = Recipe.of({"method": "rtn", "weights": "int4"})
    found = diagnose(Diagnosed(Job(folder.model, folder.data, folder.data), recipe, 99), Stages())
    job = ("quantize", folder.model, "--data", folder.data, "--method", "rtn", "--weights", "int4")
    with np.load(folder.data) as arrays:
        x = arrays["x"]

    class Batch:
        feeds, labels = {"x": x}, None

    for layer in found.layers:
        assert ptq(*job, "--keep-float", f"^{layer.site}$", "-o", folder.output, "--overwrite").code == 0
        expected = evaluate(Session(folder.model), Session(folder.output), [Batch()])
        assert layer.without.sqnr_db == pytest.approx(expected.sqnr_db, abs=0.01)


def test_the_command_prints_it(folder: Folder, ptq: Command) -> None:
    job = ("diagnose", folder.model, "--data", folder.data, "--eval", folder.data, "--method", "rtn")
    run = ptq(*job)
    assert run.code == 0, run.err
    lines = run.out.splitlines()
    assert lines[0].startswith("quantized by rtn int4: ")
    said = json.loads(ptq(*job, "--format", "json").out)
    worst = said["layers"][0]["site"]
    assert next(line for line in lines if " int4 " in line).split()[0] == worst
    command = f"--method rtn --keep-float '^{worst}$' -o float-1-worst.onnx"
    assert any(line.startswith("tried    float-1-worst: ptq quantize") and command in line for line in lines)
    assert {point["name"] for point in said["tried"]["points"]} >= {
        "as-it-is",
        "rtn-int8",
        "gptq",
        "lloyd4x2",
        "first-last-int8",
    }
    (at_size, *_) = said["remedies"]
    assert f"helps    {at_size['name']}, {at_size['gained_db']:+.1f} dB for " in run.out


def test_what_cannot_be_diagnosed(folder: Folder, ptq: Command) -> None:
    run = ptq("diagnose", folder.model, "--eval", folder.data, "--method", "auto", "--data", folder.data)
    run.fails("give another --method", code=2)
    with pytest.raises(DataError, match="give --eval"):
        diagnose(Diagnosed(Job(folder.model, folder.data), Recipe.of(RULES), 8), Stages())
