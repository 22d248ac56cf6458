"""What `--strict` lets pass loads, runs and is what the report says."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from command import Command
from odd_graphs import ODD
from small_graphs import PRODUCT, network, node, value

from ptq.audit import audit, census, check_runs
from ptq.errors import AuditError, ModelError

X = {"x": np.random.default_rng(0).standard_normal((8, 4), np.float32)}


def saved(path: Path, proto: onnx.ModelProto) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def product(weight: np.ndarray) -> onnx.ModelProto:
    ends = [value("x", ["n", len(weight)])], [value("y", ["n", weight.shape[1]])]
    return network([node("MatMul", ["x", "m"], ["y"])], {"m": weight}, *ends)


def two_outputs(op: str) -> onnx.ModelProto:
    nodes = [PRODUCT, node("Mul", ["y", "y"], ["s"]), node("Neg", ["s"], ["n"]), node(op, ["n"], ["z"])]
    return network(nodes, outputs=[value("y", ["n", 3]), value("z", ["n", 3])])


def test_an_output_behind_the_first_that_is_no_number_any_more(tmp_path: Path) -> None:
    good, bad = saved(tmp_path / "good.onnx", two_outputs("Exp")), saved(tmp_path / "bad.onnx", two_outputs("Log"))
    assert audit(good, good, [X]).latency is not None
    assert audit(bad, bad, [X]).latency is not None, "the float model is no better"
    with pytest.raises(AuditError, match="output 'z' is not finite, and that of the float model is"):
        audit(good, bad, [X])


def test_a_file_without_data_is_run_once(tmp_path: Path) -> None:
    good = saved(tmp_path / "good.onnx", network([PRODUCT]))
    shape = {"s": np.array([5, 5])}
    unrunnable = network([node("MatMul", ["x", "w"], ["p"]), node("Reshape", ["p", "s"], ["y"])], shape)
    nothing = network(
        [node("MatMul", ["x", "w"], ["p"]), node("Log", ["m"], ["y"]), node("Sub", ["p", "c"], ["m"])],
        {"c": np.float32(1e6)},
    )
    check_runs(good, good, X)
    with pytest.raises(AuditError, match=r"bad\.onnx: ONNX Runtime .* fails to run"):
        check_runs(good, saved(tmp_path / "bad.onnx", unrunnable), X)
    with pytest.raises(AuditError, match="output 'y' is not finite"):
        check_runs(good, saved(tmp_path / "nan.onnx", nothing), X)
    with pytest.raises(ModelError):
        check_runs(tmp_path / "bad.onnx", good, X)


@pytest.mark.parametrize("number", [3.3e38, -3.3e38, np.inf, np.nan])
def test_weights_whose_products_overflow_are_refused(number: float, ptq: Command, tmp_path: Path) -> None:
    weight = np.ones((64, 64), np.float32)
    weight[3, 5] = number
    proto = network(
        [node("MatMul", ["x", "m"], ["y"])], {"m": weight}, [value("x", ["n", 64])], [value("y", ["n", 64])]
    )
    path, out = saved(tmp_path / "m.onnx", proto), tmp_path / "out.onnx"
    words = "overflow float32" if np.isfinite(number) else "NaN or infinite"
    ptq("quantize", path, "--method", "rtn", "--strict", "-o", out).fails("'m' of", words, "--keep-float")
    assert not out.exists()


def test_weights_that_all_become_zero_are_a_warning(ptq: Command, tmp_path: Path) -> None:
    """Powers of two below 2^-126 are no float32 that a scale could be."""
    weight = np.full((64, 64), 1e-45, np.float32)
    proto = network(
        [node("MatMul", ["x", "m"], ["y"])], {"m": weight}, [value("x", ["n", 64])], [value("y", ["n", 64])]
    )
    path, out = saved(tmp_path / "m.onnx", proto), tmp_path / "out.onnx"
    run = ptq("quantize", path, "--method", "rtn", "--weights", "mxfp4", "--strict", "-o", out)
    assert run.code == 3
    assert "1 of 1 layers have nothing left of their weights" in run.out


@pytest.mark.parametrize("name", ["several inputs and outputs", "a loop", "without shapes", "a weight in two layouts"])
@pytest.mark.parametrize(
    "way", [("--weights", "int8"), ("--weights", "int4"), ("--weights", "int4", "--data", "x.npz")]
)
def test_the_report_is_of_the_file(
    name: str, way: tuple[str, ...], ptq: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    proto = ODD[name]()
    saved(Path("m.onnx"), proto)
    np.savez("x.npz", **{each.name: X["x"] for each in proto.graph.input})  # type: ignore[arg-type]
    run = ptq("quantize", "m.onnx", "--method", "rtn", *way, "--strict", "--json", "r.json", "-o", "out.onnx")
    assert run.code in (0, 3)
    report = json.loads(Path("r.json").read_text(encoding="utf-8"))
    assert (run.code == 0) == (not report["warnings"])
    found = census(Path("out.onnx"))
    assert report["file"]["bytes"] == Path("out.onnx").stat().st_size
    assert (found.integer > 0) == any(layer["integer"] for layer in report["layers"])
    kernels = {kernel for layer in report["layers"] for kernel in layer["kernel"].split(", ")}
    assert kernels <= {*found.kernels}


@pytest.mark.parametrize("key", ["ptq.site", "ptq.site.2", "ptq.site.x"])
def test_marks_that_come_with_a_model_are_none_of_the_report(key: str, ptq: Command, tmp_path: Path) -> None:
    """They are what the audit finds layers by, in the file that was written."""
    proto = network([node("Relu", ["x"], ["a"]), node("MatMul", ["a", "w"], ["y"], name="product")])
    proto.graph.node[0].metadata_props.add(key=key, value="product")
    proto.graph.node[1].metadata_props.add(key="ptq.float", value="because")
    np.savez(tmp_path / "x.npz", **X)  # type: ignore[arg-type]
    path, report = saved(tmp_path / "m.onnx", proto), tmp_path / "r.json"
    given = ("--data", tmp_path / "x.npz", "--method", "rtn", "--weights", "int8", "--json", report)
    assert ptq("quantize", path, *given).code == 0
    (layer,) = json.loads(report.read_text(encoding="utf-8"))["layers"]
    assert layer["integer"]
    assert layer["note"] is None
