"""ONNX files and their external data: found from anywhere, and never outside the folder of the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from tiny_models import matmul_onnx

from ptq.errors import ModelFileError, OutputError
from ptq.model.capture import CaptureOptions, capture
from ptq.model.session import Session
from ptq.pipeline.job import Job
from ptq.pipeline.single import run
from ptq.pipeline.stages import Stages
from ptq.recipe import Recipe

DEFAULTS = CaptureOptions()


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def external(folder: Path, location: str, length: int = 48) -> Path:
    proto = matmul_onnx()
    tensor = proto.graph.initializer[0]
    (folder / "weights.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    return written(folder / "model.pt", proto.SerializeToString())


def test_onnx_with_external_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = external(tmp_path, "weights.bin")
    monkeypatch.chdir(tmp_path)
    for where in (path, Path(path.name)):
        graph = capture(where, DEFAULTS)
        monkeypatch.chdir("/")  # the weights are found from anywhere
        (got,) = Session(graph_in_memory(graph)).run({"x": np.eye(4, dtype=np.float32)})
        np.testing.assert_array_equal(got, np.arange(12, dtype=np.float32).reshape(4, 3) / 8)
        monkeypatch.chdir(tmp_path)


def test_the_external_data_is_no_output(tmp_path: Path) -> None:
    model, data = external(tmp_path, "weights.bin"), tmp_path / "weights.bin"
    before = data.read_bytes()
    with pytest.raises(OutputError, match="is the input"):
        run(Job(model, output=data, overwrite=True), Recipe(), Stages())
    assert data.read_bytes() == before


def graph_in_memory(graph: object) -> bytes:
    from onnx_ir import external_data, to_proto

    return to_proto(external_data.load_to_model(graph)).SerializeToString()


@pytest.mark.parametrize(
    ("location", "length", "words"),
    [
        ("gone.bin", 48, "gone.bin, which is missing; put it next to the model"),
        ("../weights.bin", 48, "outside the folder of the model"),
        ("/etc/passwd", 48, "outside the folder of the model"),
        ("..\\weights.bin", 48, "outside the folder of the model"),
        ("C:\\weights.bin", 48, "outside the folder of the model"),
        ("", 48, "outside the folder of the model"),
        ("weights.bin", 49, "'w' ends behind the end of"),
    ],
)
def test_onnx_whose_external_data_is_not_there(location: str, length: int, words: str, tmp_path: Path) -> None:
    path = external(tmp_path, location, length)
    with pytest.raises(ModelFileError) as caught:
        capture(path, DEFAULTS)
    assert words in str(caught.value)


def test_external_data_of_a_branch_is_looked_at_too(tmp_path: Path) -> None:
    weight = onnx.numpy_helper.from_array(np.zeros(2, np.float32), "inner")
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="gone.bin")
    output = onnx.helper.make_tensor_value_info("inner", 1, [2])
    branch = onnx.helper.make_graph([], "branch", [], [output], [weight])
    node = onnx.helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    condition = onnx.helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, [])
    result = onnx.helper.make_tensor_value_info("y", 1, [2])
    proto = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [condition], [result]))
    with pytest.raises(ModelFileError, match=r"'inner' lies in .*gone.bin, which is missing"):
        capture(written(tmp_path / "model.onnx", proto.SerializeToString()), DEFAULTS)


def test_onnx_in_memory_is_not_changed() -> None:
    proto = matmul_onnx()
    before = proto.SerializeToString()
    graph = capture(proto, DEFAULTS)
    assert graph.graph.inputs[0].name == "x"
    assert proto.SerializeToString() == before
