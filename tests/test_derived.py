"""Large weights behind a Transpose or a Cast are made of their file when they are looked at, and not kept."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from command import Command
from onnx import TensorProto, helper

from ptq.errors import ModelFileError
from ptq.model.capture import CaptureOptions, capture
from ptq.model.derived import Derived
from ptq.model.graph import Model
from ptq.model.save import digest, write

ROWS, COLUMNS = 320, 128
KINDS = {
    "float16": (TensorProto.FLOAT16, np.float16),
    "bfloat16": (TensorProto.BFLOAT16, ml_dtypes.bfloat16),
    "float32": (TensorProto.FLOAT, np.float32),
    "float64": (TensorProto.DOUBLE, np.float64),
}


def stored(path: Path, kind: str, *, gemm: bool = False) -> np.ndarray:
    """A product with a weight that is stored `(out, in)` in a file beside the model; returns that.

    A Gemm turns it by itself.
    """
    element, dtype = KINDS[kind]
    weight = np.random.default_rng(0).standard_normal((ROWS, COLUMNS)).astype(dtype)
    data = path.with_name(f"{path.name}.data")
    data.write_bytes(bytes(64) + weight.tobytes())
    tensor = TensorProto(name="fc.weight", data_type=element, dims=weight.shape)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", data.name), ("offset", 64), ("length", weight.nbytes)):
        tensor.external_data.add(key=key, value=str(value))
    nodes = [helper.make_node("Cast", ["fc.weight"], ["wide"], to=TensorProto.FLOAT)] if kind != "float32" else []
    read = "wide" if nodes else "fc.weight"
    if gemm:
        nodes.append(helper.make_node("Gemm", ["x", read], ["y"], "fc", transB=1))
    else:
        nodes.append(helper.make_node("Transpose", [read], ["turned"], perm=[1, 0]))
        nodes.append(helper.make_node("MatMul", ["x", "turned"], ["y"], "fc"))
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", size] if gemm else ["n", 2, size])
        for name, size in (("x", COLUMNS), ("y", ROWS))
    ]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [tensor])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return weight


def made(path: Path) -> Model:
    return Model.of(capture(path, CaptureOptions()))


@pytest.mark.parametrize("kind", KINDS)
def test_they_are_read_anew(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    weight = stored(path, kind).astype(np.float32)
    model = made(path)
    (held,) = (value.const_value for value in model.graph.graph.initializers.values())
    assert isinstance(held, Derived)
    (site,) = model.sites
    np.testing.assert_array_equal(model.matrix(site), weight)
    assert held.tobytes() == weight.T.tobytes()
    Path(f"{path}.data").write_bytes(b"short")
    with pytest.raises(ModelFileError, match=r"'fc.weight' ends behind the end of .*m.onnx.data"):
        model.matrix(site)


def test_they_are_written_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptq.model.derived.PIECE", 5000)
    path = tmp_path / "m.onnx"
    weight = stored(path, "float16")
    model = made(path)
    before = digest(model)
    assert digest(model) == before
    feeds = {"x": np.linspace(-1, 1, 2 * COLUMNS, dtype=np.float32).reshape(1, 2, COLUMNS)}
    for name, most_bytes in (("one.onnx", 1 << 30), ("two.onnx", 1000)):
        write(model, tmp_path / name, most_bytes)
        (found,) = ort.InferenceSession(tmp_path / name).run(None, feeds)
        np.testing.assert_allclose(found, feeds["x"] @ weight.astype(np.float32).T, atol=1e-4)


@pytest.mark.parametrize(("kind", "gemm"), [("float16", True), ("bfloat16", False), ("float32", False)])
def test_files_are_as_those_of_weights_inside(kind: str, gemm: bool, tmp_path: Path, ptq: Command) -> None:
    beside, inside = tmp_path / "beside.onnx", tmp_path / "inside.onnx"
    stored(beside, kind, gemm=gemm)
    onnx.save(onnx.load(beside), inside)
    for path in (beside, inside):
        assert (
            ptq("quantize", path, "--method", "rtn", "--weights", "int4", "-o", path.with_suffix(".q.onnx")).code == 0
        )
    found = [
        {tensor.name: tensor.raw_data for tensor in onnx.load(path.with_suffix(".q.onnx")).graph.initializer}
        for path in (beside, inside)
    ]
    assert found[0] == found[1]
