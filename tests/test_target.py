"""Files for runtimes of GPUs: their form, their numbers, and a report that claims nothing that was not measured."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from handmade import Graph, images
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from torch import Tensor
from twins import TWINS, Twin, biases, difference, initializers, numbers_of, run

import ptq
from cli.quantize import quantize
from ptq.audit import audit
from ptq.errors import AuditError, ModelError, OptionError
from ptq.lowering import Checks
from ptq.pipeline import Result
from ptq.recipe import Recipe
from ptq.report import from_json, render, to_json

TARGETS = ("cuda", "tensorrt")
PAIRS: dict[str, dict[str, Any]] = {
    "fp8": {"weights": "fp8_e4m3fn", "activations": "fp8_e4m3fn"},
    "fp8 tensor": {"weights": "fp8_e4m3fn", "activations": "fp8_e4m3fn", "group": "tensor"},
    "int8": {"weights": "int8", "activations": "int8"},
    "int4": {"weights": "int4", "activations": "none", "group": 64},
}
TYPES = {"fp8": TensorProto.FLOAT8E4M3FN, "fp8 tensor": TensorProto.FLOAT8E4M3FN, "int8": TensorProto.INT8}
CASES = [(name, pair) for name in TWINS for pair in PAIRS if pair != "int4" or name != "conv"]


def quantized(twin: Twin, pair: str, **options: Any) -> Result:
    chosen = {"method": "rtn", "target": "tensorrt", **PAIRS[pair], **options}
    return ptq.quantize(twin.onnx(), {"x": twin.data(0)}, **chosen)


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    return next((entry.i for entry in node.attribute if entry.name == name), default)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize(("name", "pair"), CASES)
def test_the_form_is_what_the_parser_of_tensorrt_asserts(name: str, pair: str, target: str) -> None:
    """`QuantDequantLinearHelper` of onnx-tensorrt: types, positive scales, their number, whole blocks, float bias."""
    model = quantized(TWINS[name], pair, target=target).model
    onnx.checker.check_model(model, full_check=True)
    stored = initializers(model)
    producers = {out: node for node in model.graph.node for out in node.output}
    quantizers = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    images = [node for node in model.graph.node if node.op_type == "DequantizeLinear"]
    for node in (*quantizers, *images):
        assert len(node.input) == 2, "no zero point: H5"
        scale = numpy_helper.to_array(stored[node.input[1]])
        assert scale.dtype == np.float32
        assert (scale > 0).all()
    for node in quantizers:
        assert stored[node.input[1]].dims == []
        assert attribute(node, "output_dtype", 0) == TYPES[pair]
    assert len({node.input[0] for node in quantizers}) == len(quantizers), "one for each tensor"
    weights = [node for node in images if node.input[0] in stored]
    assert len(weights) == len(TWINS[name].layers)
    for node in weights:
        tensor, scale = stored[node.input[0]], stored[node.input[1]]
        if len(scale.dims) == 1:
            assert scale.dims[0] == tensor.dims[attribute(node, "axis", 1)]
        elif scale.dims:
            assert attribute(node, "axis", 1) == 0
            assert [n * m for n, m in zip(scale.dims, (64, 1), strict=True)] == list(tensor.dims)
        assert bool(scale.dims) == (pair != "fp8 tensor")
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            assert producers[node.input[1]].op_type == "DequantizeLinear"
            assert (node.input[0] in producers and producers[node.input[0]] in images) == (pair != "int4")
            assert all(stored[name].data_type == TensorProto.FLOAT for name in node.input[2:])
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": 21}


def dense(twin: Twin, model: onnx.ModelProto) -> dict[str, Tensor]:
    """The weights of a file in the layout of the float network, and its biases."""
    stored = initializers(model)
    images = [n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in stored]
    found = {}
    for name, node in zip(twin.layers, images, strict=True):
        numbers, scale = numbers_of(stored[node.input[0]]), numbers_of(stored[node.input[1]])
        axis, block = attribute(node, "axis", 1), attribute(node, "block_size", 0)
        if block:
            scale = scale.repeat_interleave(block, axis)
        elif scale.ndim:
            scale = scale.reshape([-1 if k == axis else 1 for k in range(numbers.ndim)])
        whole = numbers * scale
        original = tuple(initializers(twin.onnx())[name].dims)
        found[name] = whole if tuple(whole.shape) == original else whole.T
    return found | biases(model)


def rounded(x: Tensor, scale: float, pair: str) -> Tensor:
    """What torch makes of a number in the type of the activations."""
    if pair == "int4":
        return x
    if pair == "int8":
        return torch.fake_quantize_per_tensor_affine(x, scale, 0, -128, 127)
    return (x / torch.tensor(scale)).clamp(-448, 448).to(torch.float8_e4m3fn).float() * torch.tensor(scale)


@pytest.mark.parametrize(("name", "pair"), CASES)
def test_the_numbers_are_those_of_torch(name: str, pair: str) -> None:
    twin = TWINS[name]
    model = quantized(twin, pair).model
    stored = initializers(model)
    steps = {n.input[0]: numbers_of(stored[n.input[1]]) for n in model.graph.node if n.op_type == "QuantizeLinear"}
    assert len(steps) == (0 if pair == "int4" else len(twin.layers))
    order = dict(zip(twin.layers.values(), steps.values(), strict=False))
    weights = dense(twin, model)
    for x in (twin.data(1), twin.data(2, scale=3.0)):
        expected = twin.torch(
            torch.from_numpy(x), weights, lambda t, v: rounded(v, float(order[t]) if order else 0.0, pair)
        )
        assert difference(expected, run(model, x, optimize=False)) < 1e-5
        assert difference(run(twin.onnx(), x), run(model, x, optimize=False)) > 1e-3, "something is rounded"


@pytest.mark.parametrize("name", TWINS)
def test_optimization_does_not_drop_what_is_in_front_of_fp8(name: str) -> None:
    """H5, H6: the rules that would are bound to no device, so that a CUDA session has them too."""
    model, x = quantized(TWINS[name], "fp8", target="cuda").model, TWINS[name].data(1)
    expected, found = run(model, x, optimize=False), run(model, x)
    off = np.abs(expected - found) / np.abs(expected).max()
    assert np.quantile(off, 0.9) < 1e-5
    assert off.max() < 1e-3, "a sum in another order may round one input to its neighbour, no more"


def test_with_zero_points_of_fp8_the_trap_is_sprung() -> None:
    gemm = with_zero_points(quantized(TWINS["gemm"], "fp8").model)
    x = TWINS["gemm"].data(1)
    assert difference(run(gemm, x, optimize=False), run(gemm, x)) > 0.1, "the Relu is gone"
    conv = with_zero_points(quantized(TWINS["conv"], "fp8").model)
    with pytest.raises(ModelError, match="Unexpected data type for QuantizeLinear input y_zero_point"):
        run(conv, TWINS["conv"].data(1))


def with_zero_points(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same file with the type of its activations said by a zero point."""
    stored = initializers(model)
    model.graph.initializer.append(helper.make_tensor("zero", TensorProto.FLOAT8E4M3FN, [], [0]))
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[0] not in stored:
            node.input.append("zero")
            del node.attribute[:]
    return model


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weights": "fp8_e4m3fn", "activations": "uint8", "method": "rtn"}, "has a zero point"),
        ({"weights": "int8", "activations": "uint8", "method": "rtn"}, "has a zero point"),
        ({"weights": "int8", "activations": "dynamic", "method": "rtn"}, "kernels for processors"),
        ({"weights": "fp8_e5m2", "activations": "fp8_e5m2", "method": "rtn"}, "of FP8 it computes in fp8_e4m3fn"),
        ({"weights": "fp8_e4m3fn", "activations": "int8", "method": "rtn"}, "use one of: --weights fp8_e4m3fn --act"),
        ({"weights": "int8", "activations": "none", "method": "rtn"}, "does not take --weights int8 with"),
        ({"weights": "nf4", "method": "rtn"}, "does not take --weights nf4 with --activations none"),
        ({"weights": "int4", "method": "rtn"}, "takes int4 with --group 64 or 128, not channel"),
        ({"weights": "int4", "method": "rtn", "group": "32"}, "not 32"),
        (
            {"weights": "int4", "group": "64"},
            "gives them several, which ONNX Runtime folds on a CPU; use --method gptq",
        ),
        ({"weights": "int8", "method": "rtn", "portable": True}, "has no --portable"),
        ({"weights": "int8", "method": "rtn", "first_last": "int8"}, "has no --first-last"),
        ({"weights": "int8", "method": "rtn", "embeddings": "int4"}, "has no --embeddings"),
    ],
)
def test_what_is_not_sensible_is_an_error_of_one_line(options: dict[str, Any], words: str) -> None:
    with pytest.raises(OptionError) as error:
        Recipe(target="tensorrt", **options)
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert "; " in str(error.value)


def test_an_unknown_target_and_int8_activations_on_processors() -> None:
    with pytest.raises(OptionError, match="unknown --target 'gpu'"):
        Recipe(target="gpu")
    with pytest.raises(OptionError, match="or --target cuda or tensorrt"):
        Recipe(activations="int8")
    assert Recipe(target="cuda", method="rtn", weights="int4", group="16").computed(has_data=True) == "none"
    shown = CliRunner().invoke(quantize, ["--help-all"]).output
    assert re.search(r"--target TEXT +What runs the file: cpu, cuda or tensorrt", shown)


def test_activations_follow_from_the_weights_and_need_data() -> None:
    twin = TWINS["gemm"]
    result = ptq.quantize(twin.onnx(), {"x": twin.data(0)}, method="rtn", weights="int8", target="cuda")
    assert {layer.execution for layer in result.report.layers} == {"qdq"}
    with pytest.raises(OptionError, match="--activations fp8_e4m3fn needs calibration data"):
        ptq.quantize(twin.onnx(), method="rtn", weights="fp8_e4m3fn", target="cuda")
    alone = ptq.quantize(twin.onnx(), method="rtn", weights="int4", group=64, target="cuda")
    assert {layer.execution for layer in alone.report.layers} == {"dequantized"}


def test_what_a_target_has_no_form_for_stays_float_and_is_named() -> None:
    ids = {"ids": np.random.default_rng(0).integers(0, 50, (8, 9))}
    report = ptq.quantize(graphs.attention(), ids, method="rtn", weights="int8", target="cuda").report
    floats = {layer.op: layer.note for layer in report.layers if layer.execution == "float"}
    assert floats == {"Gather": "Gather, of which --target cuda takes no int8 weights"}
    assert any(note == f"1 layer in float: {floats['Gather']}" for note in report.notes)
    narrow = ptq.quantize(graphs.attention(), method="rtn", weights="int4", group=32, target="cuda").report
    notes = [layer.note for layer in narrow.layers if layer.execution == "float" and layer.op != "Gather"]
    assert notes == ["its 16 inputs are not whole blocks of 32, as --target cuda has them"] * 3
    with pytest.raises(OptionError, match="every layer stays in float, the first as Conv, of which --target"):
        quantized(TWINS["conv"], "int4")


def test_a_table_that_a_product_shares_stays_float() -> None:
    model = graphs.model(
        "e = Gather (table, ids) t = Transpose <perm = [1, 0]> (table) h = MatMul (e, w) y = MatMul (h, t)",
        "int64[n, t] ids",
        "float[n, t, 50] y",
        {"table": (50, 32), "w": (32, 32)},
    )
    ids = {"ids": np.random.default_rng(0).integers(0, 50, (8, 9))}
    report = ptq.quantize(model, ids, method="rtn", weights="int8", target="cuda").report
    assert [layer.note for layer in report.layers if layer.execution == "float"] == [
        "an embedding table as well, which --target cuda leaves in float"
    ]


def test_nothing_is_claimed_that_was_not_measured() -> None:
    report = quantized(TWINS["gemm"], "fp8").report
    file = report.file
    assert (file.latency_ratio, file.ms, file.load_seconds, file.peak_bytes, file.parity_db) == (None,) * 5
    assert {layer.kernel for layer in report.layers} == {None}
    assert not any(layer.integer for layer in report.layers)
    assert report.accuracy is not None
    assert not report.passed
    assert not report.warnings
    assert report.notes[0] == (
        "latency, memory and kernels were not measured: the file is for tensorrt, this machine ran it unoptimized on "
        "a CPU"
    )
    out = io.StringIO()
    render(report, Console(file=out, width=120))
    assert "PASS" not in out.getvalue()
    assert out.getvalue().splitlines()[-1] == "written  not written, not timed: for tensorrt"
    assert json.loads(to_json(report))["verdict"] == "NOT TIMED"
    assert from_json(to_json(report)).elsewhere == "tensorrt"


def test_a_loss_of_accuracy_is_still_a_warning() -> None:
    report = quantized(TWINS["gemm"], "int4", max_drop=0.0).report
    assert json.loads(to_json(report))["verdict"] == "WARNING"
    out = io.StringIO()
    render(report, Console(file=out, width=120))
    assert out.getvalue().splitlines()[-1] == "written  not written, not timed: for tensorrt, with 1 warning"


def test_a_file_checked_as_written_must_still_run(tmp_path: Path) -> None:
    g = Graph()
    g.call("Relu", "x", out="y")
    path = g.save(tmp_path / "f.onnx")
    found = audit(path, path, [{"x": images()}], Checks.AS_WRITTEN)
    assert (found.kernels, found.latency, found.quantized.load_seconds) == ({}, None, None)
    assert found.quantized.file_bytes == path.stat().st_size
    with pytest.raises(AuditError, match=r"f\.onnx, run as written: ONNX Runtime .* fails to run"):
        audit(path, path, [{"x": images(1, 3, 6, 6)}], Checks.AS_WRITTEN)


def test_a_processor_gets_what_it_got() -> None:
    twin = TWINS["gemm"]
    options: dict[str, Any] = {"method": "rtn", "weights": "int8"}
    plain = ptq.quantize(twin.onnx(), {"x": twin.data(0)}, **options)
    said = ptq.quantize(twin.onnx(), {"x": twin.data(0)}, target="cpu", **options)
    assert plain.content == said.content
    assert plain.report.elsewhere is None
    assert plain.report.file.latency_ratio is not None
