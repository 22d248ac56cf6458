"""What a run is expected to take: that all stages are there, and that it grows with what they do."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
from command import Command
from small_folder import Folder

from ptq.model.capture import CaptureOptions
from ptq.pipeline import Job, Stages, inspect, preview
from ptq.recipe import Recipe
from ptq.report import Outline, Prediction
from ptq.report.prediction import duration


def predicted(folder: Folder, options: Mapping[str, Any], data: Any = None, **job: Any) -> Prediction:
    found = preview(Job(folder.model, data, **job), Recipe.of(options), Stages())
    assert isinstance(found, Outline)
    assert found.prediction is not None
    return found.prediction


def test_the_stages_are_those_of_the_run(folder: Folder) -> None:
    found = predicted(folder, {"bits": 4.5}, folder.data)
    assert set(found.stages) == {"calibrate", "quantize", "allocate", "audit", "evaluate"}
    assert all(seconds > 0 for seconds in found.stages.values())
    assert found.seconds == pytest.approx(sum(found.stages.values()))
    assert found.peak_bytes > 1e8  # torch alone
    without = predicted(folder, {"method": "rtn"})
    assert set(without.stages) == {"quantize"}
    assert predicted(folder, {"method": "rtn"}, folder.data, evaluation=folder.data).left_out == ()


def test_what_has_no_time_is_named(folder: Folder) -> None:
    found = predicted(folder, {"method": "rtn", "steps": ["bias-correction"]}, folder.data)
    assert found.left_out == ("bias-correction",)
    assert "and the time of bias-correction" in found.describe()


def test_more_samples_take_longer(folder: Folder) -> None:
    x = np.random.default_rng(0).normal(size=(500, 3, 8, 8)).astype(np.float32)
    few, many = (predicted(folder, {"method": "gptq"}, {"x": x[:count]}).stages for count in (5, 500))
    assert many["calibrate"] > 3 * few["calibrate"]


@pytest.mark.parametrize(
    ("seconds", "said"), [(0.42, "0.4 s"), (41.0, "41 s"), (100.0, "2 min"), (5000.0, "83 min"), (9000.0, "2.5 h")]
)
def test_durations(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_dry_run_says_it(folder: Folder, ptq: Command) -> None:
    run = ptq("quantize", folder.model, "--data", folder.data, "--dry-run")
    assert run.code == 0, run.err
    (line,) = [line for line in run.out.splitlines() if line.startswith("takes    about ")]
    assert "MB of memory" in line
    said = json.loads(ptq("quantize", folder.model, "--data", folder.data, "--dry-run", "--format", "json").out)
    assert set(said["prediction"]) == {"stages", "peak_bytes", "left_out"}


def test_inspect_says_it_for_usual_recipes(folder: Folder) -> None:
    found = inspect(folder.model, CaptureOptions(), Stages())
    assert found.predicted_samples == 64
    assert [each.options for each in found.predictions] == [
        "--method rtn --weights int8",
        "--method gptq --weights int4",
        "--method multipoint --bits 4.25",
    ]
    assert found.notes == ()


def test_a_model_that_does_not_run_on_noise_says_so(folder: Folder) -> None:
    model = onnx.load(folder.model)
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"  # 128, for which the kernels are too many
    model.graph.node.insert(0, onnx.helper.make_node("Reshape", ["x", "shape"], ["small"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([-1, 3, 8, 7]), "shape"))
    model.graph.node[1].input[0] = "small"
    onnx.save(model, folder.model)
    found = inspect(folder.model, CaptureOptions(), Stages())
    assert found.predictions == ()
    assert "no prediction of time and memory" in found.notes[0]
    assert replace(found, notes=()).layers  # the rest is there all the same
