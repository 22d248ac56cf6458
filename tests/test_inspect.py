"""`ptq inspect`: what a model says without data."""

from __future__ import annotations

import json
import math
from pathlib import Path

import graphs
import numpy as np
import onnx
import pytest
from command import Command
from model_files import program
from onnx import TensorProto, helper, numpy_helper
from small_folder import Folder

import ptq as library
from ptq.model.capture import CaptureOptions
from ptq.pipeline import Stages, inspect
from ptq.report import Inspection

TABLE = np.random.default_rng(0).standard_normal((40, 8), np.float32)


def inspected(path: Path) -> Inspection:
    return inspect(path, CaptureOptions(), Stages())


def test_layers_and_what_formats_come_to(folder: Folder) -> None:
    found = inspected(folder.model)
    assert [(layer.site, layer.op, layer.shape, layer.execution) for layer in found.layers] == [
        ("one", "Conv", (8, 3, 3, 3), "static"),
        ("two", "Conv", (16, 8, 3, 3), "static"),
        ("three", "Gemm", (5, 16), "static"),
    ]
    assert all(layer.weights == math.prod(layer.shape) for layer in found.layers)
    assert found.inputs == ("x:float32[n,3,8,8]",)
    assert found.outputs == ("y[?,5]",)
    sizes = {size.options: size for size in found.formats}
    assert sizes["--weights int4 --group 32"].bits_per_weight > sizes["--weights int4"].bits_per_weight > 4
    assert sizes["--weights int2"].bytes < sizes["--weights int4"].bytes < sizes["--weights int8"].bytes
    assert sizes["--weights int8"].bytes < found.float_bytes


@pytest.fixture(scope="module")
def of_digits(digits: Path) -> Inspection:
    return inspected(digits)


@pytest.mark.parametrize("options", [{"weights": "int8"}, {"weights": "int4"}, {"weights": "int4", "group": "32"}])
def test_the_bytes_are_about_those_of_the_file(digits: Path, of_digits: Inspection, options: dict[str, str]) -> None:
    said = " ".join(f"--{name} {value}" for name, value in options.items())
    (size,) = (size for size in of_digits.formats if size.options == said)
    made = library.quantize(digits, method="rtn", **options)
    assert size.bytes is not None
    assert size.bytes == pytest.approx(made.report.file.bytes, rel=0.1)
    assert size.bits_per_weight == pytest.approx(made.report.bits_per_weight, abs=0.1)


def test_what_stays_float_has_a_reason(tmp_path: Path, ptq: Command) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "product"),
        helper.make_node("Add", ["a", "table"], ["y"]),
    ]
    rng = np.random.default_rng(3)
    arrays = {name: rng.normal(size=size).astype(np.float32) for name, size in (("w", (4, 8)), ("table", (3, 8)))}
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 3, 8])],
        [numpy_helper.from_array(array, name) for name, array in arrays.items()],
    )
    path = tmp_path / "net.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    found = inspected(path)
    assert [(other.name, other.count, other.op) for other in found.others] == [("table", 24, "Add")]
    run = ptq("inspect", path)
    assert run.code == 0
    assert "float    'table', 24 weights: Add is no kind of layer that is quantized" in run.out


def test_a_torch_file_and_json(tmp_path: Path, ptq: Command) -> None:
    (tmp_path / "model.pt2").write_bytes(program())
    run = ptq("inspect", tmp_path / "model.pt2", "--format", "json")
    assert run.code == 0, run.err
    said = json.loads(run.out)
    assert said["source"]["sites"] == len(said["layers"]) == 2
    assert said["schema"] == 1


def test_what_is_no_model(tmp_path: Path, ptq: Command) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(b"nothing")
    ptq("inspect", path).fails("net.onnx")
    ptq("inspect", tmp_path / "none.onnx").fails("none.onnx")


def test_a_table_that_is_the_weight_of_the_last_layer_is_in_it(tmp_path: Path) -> None:
    made = graphs.with_arrays(
        "e = Gather (table, ids) y = MatMul (e, w) z = ConvTranspose (x, up)",
        "int64[n, s] ids, float[n, 4, s] x",
        "float[n, s, 40] y, float[n, 3, t] z",
        {"table": TABLE, "w": np.ascontiguousarray(TABLE.T), "up": np.ones((4, 3, 2), np.float32)},
    )
    onnx.save(made, tmp_path / "m.onnx")
    found = inspected(tmp_path / "m.onnx")
    assert len(found.layers) == 1
    assert [other.name for other in found.others] == ["up"]
