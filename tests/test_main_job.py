"""The whole way from a model of any kind to a file that computes nearly the same in int8 kernels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from tiny_models import Convolutions, Multilayer, Tokens
from torch import nn

import ptq

RNG = np.random.default_rng(11)
IMAGES = {"image": RNG.normal(size=(12, 3, 8, 8)).astype(np.float32)}
PLENTY = {"bits": 32.0}


def made(module: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return module.eval()


def close(result: ptq.Result) -> None:
    accuracy = result.report.accuracy
    assert accuracy is not None
    assert accuracy.cosine is not None
    assert accuracy.cosine > 0.999
    assert accuracy.nonfinite == 0
    assert all(layer.integer for layer in result.report.computing), result.report.kernels


@pytest.mark.measures_memory
def test_a_module() -> None:
    close(ptq.quantize(made(Convolutions()), IMAGES, eval_data=IMAGES, **PLENTY))


@pytest.mark.parametrize("weights", ["int4", "int3", "int2"])
def test_few_bits(convolutions: onnx.ModelProto, weights: str) -> None:
    result = ptq.quantize(convolutions, IMAGES, eval_data=IMAGES, weights=weights, **PLENTY)
    close(result)
    opset = next(each.version for each in onnx.load_from_string(result.content).opset_import if not each.domain)
    assert opset == (21 if weights == "int4" else 25)


@pytest.mark.parametrize("search", ["greedy", "greedy-grid"])
def test_greedy_points_are_brought_to_an_int8_grid(convolutions: onnx.ModelProto, search: str) -> None:
    result = ptq.quantize(convolutions, IMAGES, eval_data=IMAGES, search=search, points=4)
    assert all(layer.integer for layer in result.report.layers)
    assert result.report.accuracy is not None
    assert result.report.accuracy.sqnr_db is not None
    assert result.report.accuracy.sqnr_db > 20


@pytest.mark.parametrize("rule", ["minmax", "percentile", "mse", "entropy"])
def test_every_range_rule(convolutions: onnx.ModelProto, rule: str) -> None:
    close(ptq.quantize(convolutions, IMAGES, eval_data=IMAGES, range=rule, **PLENTY))


def test_portable_weights_lose_little(convolutions: onnx.ModelProto) -> None:
    close(ptq.quantize(convolutions, IMAGES, eval_data=IMAGES, portable=True, **PLENTY))


def test_tokens_of_ragged_length() -> None:
    batches = [
        {"ids": RNG.integers(0, 20, (2, length)), "mask": np.ones((2, length), np.int64)} for length in (5, 9, 2, 7)
    ]
    close(ptq.quantize(made(Tokens()), batches, eval_data=batches, **PLENTY))


def test_weights_only_without_data() -> None:
    result = ptq.quantize(made(Multilayer()), inputs=["x:float32[2,4]"], points=2)
    assert result.report.accuracy is None
    assert any("no calibration data" in note for note in result.report.notes)
    assert {layer.execution for layer in result.report.layers} == {"blocks"}


def test_a_state_dict_with_its_network(tmp_path: Path) -> None:
    torch.save(made(Convolutions()).state_dict(), tmp_path / "weights.pt")
    close(ptq.quantize(tmp_path / "weights.pt", IMAGES, eval_data=IMAGES, network="tiny_models:Convolutions", **PLENTY))


def test_a_result_saves_what_it_measured(tmp_path: Path) -> None:
    result = ptq.quantize(made(Multilayer()), {"x": RNG.normal(size=(8, 4)).astype(np.float32)}, bits=32.0)
    result.save(tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").read_bytes() == result.content
    with pytest.raises(ptq.errors.OutputError, match="exists"):
        result.save(tmp_path / "out.onnx")


OPSETS = (7, 9, 11, 13, 17, 20, 21, 23, 25, 26)
STORES = ("initializer", "constant", "identity", "cast", "transpose", "reshape")


def stored(nodes: list[onnx.NodeProto], name: str, array: np.ndarray, how: str) -> list[onnx.TensorProto]:
    """A weight in one of the ways that exporters have of storing it."""
    if how == "constant":
        nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(array)))
        return []
    if how == "initializer":
        return [numpy_helper.from_array(array, name)]
    below, extra, attributes = array, [], {}
    if how == "cast":
        below, attributes = array.astype(np.float16), {"to": TensorProto.FLOAT}
    elif how == "transpose":
        perm = list(range(array.ndim))[::-1]
        below, attributes = np.ascontiguousarray(array.transpose(perm)), {"perm": perm}
    elif how == "reshape":
        below, extra = array.reshape(-1), [numpy_helper.from_array(np.array(array.shape), f"{name}.shape")]
    nodes.append(helper.make_node(how.title(), [f"{name}.raw", *(each.name for each in extra)], [name], **attributes))
    return [numpy_helper.from_array(below, f"{name}.raw"), *extra]


def network(opset: int, how: str) -> onnx.ModelProto:
    """Conv, BatchNorm, Relu, pooling, MatMul and Add."""
    nodes: list[onnx.NodeProto] = []
    weights = RNG.normal(size=(6, 3, 3, 3)).astype(np.float16).astype(np.float32)
    columns = RNG.normal(size=(6, 5)).astype(np.float16).astype(np.float32)
    arrays = stored(nodes, "w", weights, how) + stored(nodes, "m", columns, how)
    for name, low, high in (("scale", 0.5, 1.5), ("shift", -1, 1), ("mean", -1, 1), ("var", 0.5, 2), ("bias", -1, 1)):
        size = 5 if name == "bias" else 6
        arrays.append(numpy_helper.from_array(RNG.uniform(low, high, size).astype(np.float32), name))
    nodes += [
        helper.make_node("Conv", ["image", "w"], ["c"], "conv"),
        helper.make_node("BatchNormalization", ["c", "scale", "shift", "mean", "var"], ["n"]),
        helper.make_node("Relu", ["n"], ["r"]),
        helper.make_node("GlobalAveragePool", ["r"], ["p"]),
        helper.make_node("Flatten", ["p"], ["f"]),
        helper.make_node("MatMul", ["f", "m"], ["y0"], "product"),
        helper.make_node("Add", ["y0", "bias"], ["y"]),
    ]
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 8, 8])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 5])
    graph = helper.make_graph(nodes, "g", [image], [out], arrays)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=min(3 + opset // 3, 10))


@pytest.mark.parametrize("how", STORES)
@pytest.mark.parametrize("opset", OPSETS)
def test_onnx_of_every_opset_and_way_of_storing_weights(tmp_path: Path, opset: int, how: str) -> None:
    onnx.save(network(opset, how), tmp_path / "net.onnx")
    result = ptq.quantize(tmp_path / "net.onnx", IMAGES, eval_data=IMAGES, **PLENTY)
    close(result)
    assert len(result.report.layers) == 2
