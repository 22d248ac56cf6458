"""What users see of networks that compute in float16, bfloat16 or float64: files, data, reports and torch modules."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from captured import scripted
from command import Command
from onnx import TensorProto
from other_floats import KINDS, data, graph, network, weights
from tiny_models import seeded

import ptq
from ptq.errors import DataError
from ptq.model.capture import CaptureOptions, capture
from ptq.model.graph import Model
from ptq.model.precision import computed_in
from ptq.model.save import write
from ptq.model.session import Session
from ptq.model.wire import decoded_numbers

INT8, INT4 = {"method": "rtn", "weights": "int8"}, {"method": "rtn", "weights": "int4"}


def ran(model: onnx.ModelProto, kind: str) -> np.ndarray:
    return Session(model.SerializeToString()).run(data("float32" if kind == "bfloat16" else kind))[0]


def stored(model: onnx.ModelProto) -> list[tuple[str, tuple[int, ...], bytes]]:
    """All numbers of a file, whatever they are called."""
    arrays = [onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer]
    return sorted((str(array.dtype), array.shape, array.tobytes()) for array in arrays)


@pytest.mark.parametrize(
    ("kind", "options", "calibrated"),
    [
        ("float16", INT8, True),
        ("bfloat16", INT4, False),
        ("float64", INT8, True),
        *(
            pytest.param(*each, marks=pytest.mark.slow)
            for each in [("float16", INT4, False), ("bfloat16", INT8, True), ("float64", INT4, False)]
        ),
    ],
)
def test_files_hold_what_that_of_the_float32_twin_holds(
    kind: str, options: dict[str, object], calibrated: bool
) -> None:
    twin, model = (
        ptq.quantize(network(each), data(each if each != "bfloat16" else "float32") if calibrated else None, **options)
        for each in ("float32", kind)
    )
    assert stored(model.model) == stored(twin.model)
    ends = [KINDS["float32" if kind == "bfloat16" else kind][1], TensorProto.INT64]
    assert [each.type.tensor_type.elem_type for each in model.model.graph.input] == ends
    assert [each.name for each in model.model.graph.output] == ["y"]
    assert model.model.graph.output[0].type.tensor_type.elem_type == ends[0]
    np.testing.assert_allclose(ran(model.model, kind), ran(twin.model, "float32"), atol=2e-3)
    (note,) = [note for note in model.report.notes if kind in note]
    assert "FP32 here is the same network in float32" in note
    assert not any("computes in" in note for note in twin.report.notes)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_data_for_inputs_of_float16(dtype: str) -> None:
    given = {"x": data("float32")["x"].astype(dtype), "ids": data("float32")["ids"]}
    result = ptq.quantize(network("float16"), given, method="rtn", weights="int8")
    assert result.report.accuracy is not None
    assert result.report.accuracy.sqnr_db > 20


def test_data_that_float16_does_not_hold() -> None:
    given = {"x": data("float32")["x"] * 1e6, "ids": data("float32")["ids"]}
    with pytest.raises(DataError, match="'x' has NaN or Inf in sample 0"):
        ptq.quantize(network("float16"), given, method="rtn", weights="int8")


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A network of bfloat16, which ONNX Runtime has no kernels for."""
    path = tmp_path / "network.onnx"
    onnx.save(network("bfloat16"), path)
    np.savez(tmp_path / "data.npz", **data("float32"))
    return path


NOTE = "the model computes in bfloat16; FP32 here is the same network in float32, inputs and outputs too"


def test_what_reports_say(saved: Path, tmp_path: Path, ptq: Command) -> None:
    told, made = ("--data", tmp_path / "data.npz", "--method", "rtn", "--weights", "int8"), tmp_path / "q.onnx"
    runs = [
        ptq("quantize", saved, *told, "--dry-run"),
        ptq("quantize", saved, *told, "-o", made, "--json", tmp_path / "report.json"),
        ptq("compare", saved, made, "--eval", tmp_path / "data.npz", "--json", tmp_path / "compared.json"),
    ]
    for run in runs:
        assert run.code == 0, run.err
        assert run.out.count(NOTE) == 1, run.out
    report, compared = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("report", "compared"))
    assert report["file"]["float_bytes"] == compared["reference"]["bytes"] == saved.stat().st_size
    assert compared["reference"]["sha256"] == report["source"]["sha256"]
    assert compared["files"][0]["accuracy"]["sqnr_db"] > 20


@pytest.mark.slow
def test_what_looks_say(saved: Path, tmp_path: Path, ptq: Command) -> None:
    told = ("--data", tmp_path / "data.npz", "--eval", tmp_path / "data.npz", "--method", "rtn", "--weights", "int8")
    for run in (ptq("inspect", saved), ptq("diagnose", saved, *told)):
        assert run.code == 0, run.err
        assert run.out.count(NOTE) == 1, run.out


def test_a_model_that_runs_in_no_type_is_refused_as_it_is(tmp_path: Path, ptq: Command) -> None:
    path = tmp_path / "m.onnx"
    made = network("bfloat16")
    made.graph.node[-1].domain = "own"
    made.opset_import.add(domain="own", version=1)
    onnx.save(made, path)
    ptq("inspect", path).fails("Type Error", "bfloat16")


def test_memory_of_a_session_counts_what_a_cast_makes_of_weights(tmp_path: Path) -> None:
    arrays = weights("float16", w=(300, 128))
    write(
        Model(
            capture(graph("y = MatMul (x, w)", "float16[n, 300] x", "float16[n, 128] y", **arrays), CaptureOptions())
        ),
        tmp_path / "m.onnx",
    )
    assert decoded_numbers(tmp_path / "m.onnx") == 300 * 128


class Half(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = torch.nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.fc(x))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [torch.float16, torch.float64])
def test_modules_in_other_floats(kind: torch.dtype) -> None:
    module = seeded(Half).to(kind)
    x = np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)
    graph = capture(module, CaptureOptions(), {"x": x})
    assert computed_in(graph) == str(kind).removeprefix("torch.")
    assert Model(graph).inputs[0].dtype == str(kind).removeprefix("torch.")
    (found,) = Model.of(graph).session().run({"x": x.astype(Model(graph).inputs[0].dtype)})
    np.testing.assert_allclose(found, module(torch.from_numpy(x).to(kind)).detach(), atol=2e-3)


def test_a_program_in_bfloat16() -> None:
    module = seeded(Half).bfloat16()
    example = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    program = torch.export.export(module, (example.bfloat16(),))
    graph = capture(program, CaptureOptions())
    (found,) = Model.of(graph).session().run({"x": example.numpy()})
    np.testing.assert_allclose(found, module(example.bfloat16()).detach().float(), atol=3e-2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float64])
def test_scripts_in_other_floats(kind: torch.dtype) -> None:
    module = scripted(seeded(Half).to(kind))
    graph = capture(module, CaptureOptions(), {"x": np.ones((4, 8), np.float32)})
    assert computed_in(graph) == str(kind).removeprefix("torch.")
