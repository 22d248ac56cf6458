"""FP8 on processors: files that simulate its activations, and weights alone, against torch's own FP8 types."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import graphs
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor
from twins import FP8, TWINS, Twin, biases, difference, initializers, numbers_of, run, scale, value

import ptq
from ptq import formats
from ptq.model.session import Session
from ptq.pipeline import Result

CLOSE = 1e-5


def quantized(twin: Twin, weights: str, activations: str) -> Result:
    return ptq.quantize(twin.onnx(), {"x": twin.data(0)}, method="rtn", weights=weights, activations=activations)


def dense(twin: Twin, result: Result) -> dict[str, Tensor]:
    """The weights of a file in the layout of the float network, decoded by torch, and its biases."""
    model = result.model
    found = {}
    for name, layer in zip(twin.layers, result.report.layers, strict=True):
        rows = numbers_of(initializers(model)[f"{layer.site}/plane1"])
        steps = torch.from_numpy(scale(model, layer.site).copy()).reshape(-1, *[1] * (rows.ndim - 1))
        original = tuple(initializers(twin.onnx())[name].dims)
        whole = rows * steps
        found[name] = whole if tuple(whole.shape) == original else whole.T
    return found | biases(model)


def rounded(x: Tensor, scale: float, kind: torch.dtype) -> Tensor:
    """To the nearest number of a type; torch makes NaN of what is too large, hence the clamp."""
    most = torch.finfo(kind).max
    step = torch.tensor(scale, dtype=torch.float32)
    return (x / step).clamp(-most, most).to(kind).float() * step


@pytest.mark.parametrize("activations", FP8)
@pytest.mark.parametrize("name", TWINS)
def test_simulated_activations_give_the_numbers_of_torch(name: str, activations: str) -> None:
    """H5, H6: Relu and Clip stay where they are, convolutions load; beyond the calibrated range numbers saturate."""
    twin = TWINS[name]
    result = quantized(twin, activations, activations)
    assert {layer.execution for layer in result.report.layers} == {"simulated"}
    weights = dense(twin, result)
    steps = {t: float(value(result.model, f"{t}/simulated/scale")) for t in twin.layers.values()}
    for x in (twin.data(1), twin.data(2, scale=3.0)):
        expected = twin.torch(torch.from_numpy(x), weights, lambda t, v: rounded(v, steps[t], FP8[activations]))
        assert difference(expected, run(result.model, x)) < CLOSE
        plain = twin.torch(torch.from_numpy(x), weights, lambda _, v: v)
        assert difference(plain, run(result.model, x)) > 1e-3, "the activations are rounded"


@pytest.mark.parametrize("name", TWINS)
def test_scales_are_those_with_which_what_was_seen_just_fits(name: str) -> None:
    twin = TWINS[name]
    result = quantized(twin, "fp8_e4m3fn", "fp8_e4m3fn")
    seen: dict[str, float] = {}

    def watched(tensor: str, x: Tensor) -> Tensor:
        seen[tensor] = float(x.abs().max())
        return x

    originals = {key: numbers_of(tensor) for key, tensor in initializers(twin.onnx()).items()}
    twin.torch(torch.from_numpy(twin.data(0)), originals, watched)
    for tensor, most in seen.items():
        assert float(value(result.model, f"{tensor}/simulated/scale")) == pytest.approx(most / 448, rel=1e-5)


@pytest.mark.parametrize("weights", FP8)
def test_stored_weights_are_the_nearest_that_torch_knows(weights: str) -> None:
    twin = TWINS["conv"]
    result = quantized(twin, weights, "none")
    for name, layer in zip(twin.layers, result.report.layers, strict=True):
        stored = numbers_of(initializers(result.model)[f"{layer.site}/plane1"])
        step = torch.from_numpy(scale(result.model, layer.site).copy())[:, None, None, None]
        original = torch.from_numpy(numpy_helper.to_array(initializers(twin.onnx())[name]).copy())
        most = torch.finfo(FP8[weights]).max
        nearest = (original.double() / step.double()).clamp(-most, most).float().to(FP8[weights]).float()
        assert torch.equal(stored, nearest)


@pytest.mark.parametrize("weights", FP8)
@pytest.mark.parametrize("name", TWINS)
def test_weights_alone_fold_to_the_float_network_with_those_weights(name: str, weights: str, tmp_path: Path) -> None:
    """H11: nothing is left to decode at a call, the operators are those of the float network."""
    twin = TWINS[name]
    result = ptq.quantize(twin.onnx(), method="rtn", weights=weights)
    assert {layer.execution for layer in result.report.layers} == {"weights"}
    twins_weights, float_model = dense(twin, result), twin.onnx()
    for tensor in float_model.graph.initializer:
        if tensor.name in twins_weights:
            tensor.CopyFrom(numpy_helper.from_array(twins_weights[tensor.name].numpy(), tensor.name))
    x = twin.data(1)
    assert difference(run(float_model, x), run(result.model, x)) < CLOSE
    assert difference(run(twin.onnx(), x), run(result.model, x)) > 1e-3, "the weights are rounded"
    assert operators(result.model, tmp_path / "q.onnx") == operators(float_model, tmp_path / "f.onnx")


def operators(model: onnx.ModelProto, path: Path) -> Counter[str]:
    """What ONNX Runtime runs."""
    Session(model.SerializeToString(), optimized_path=path)
    return Counter(node.op_type for node in onnx.load(path, load_external_data=False).graph.node)


@pytest.mark.parametrize("weights", FP8)
def test_the_file_is_about_a_quarter(weights: str) -> None:
    model = graphs.model(
        "a = MatMul (x, w0) y = MatMul (a, w1)",
        "float[n, 512] x",
        "float[n, 512] y",
        {"w0": (512, 512), "w1": (512, 512)},
    )
    file = ptq.quantize(model, method="rtn", weights=weights).report.file
    assert file.bytes < 0.27 * file.float_bytes


@pytest.mark.parametrize("kind", FP8)
def test_casts_of_onnx_runtime_round_as_torch_does(kind: str) -> None:
    """At every number, at every tie and beside it, at all of bfloat16, infinity and NaN among it; saturating."""
    fmt = formats.get(kind)
    ends = np.array(fmt.values)
    ties = ((ends[1:] + ends[:-1]) / 2).astype(np.float32)
    beside = [np.nextafter(ties, np.float32(end)) for end in (np.inf, -np.inf)]
    short = (np.arange(65536, dtype=np.uint32) << 16).view(np.float32)
    x = np.concatenate([ends.astype(np.float32), ties, *beside, short])
    nodes = [
        helper.make_node("Cast", ["x"], ["c"], to=TensorProto.DataType.Value(str(fmt.onnx))),
        helper.make_node("Cast", ["c"], ["y"], to=TensorProto.FLOAT),
    ]
    sides = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in "xy"]
    graph = helper.make_graph(nodes, "g", sides[:1], sides[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    most = torch.finfo(FP8[kind]).max
    assert most == fmt.max
    expected = torch.from_numpy(x).clamp(-most, most).to(FP8[kind]).float().numpy()
    assert np.array_equal(run(model, x), expected, equal_nan=True)
