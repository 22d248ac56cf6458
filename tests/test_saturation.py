"""Sums of int8 products that stop at 16 bits, against loops over every pair."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from small_folder import Folder

import ptq as library
from ptq.audit import Saturating
from ptq.model.session import Session
from ptq.pipeline import Compared, Stages, compare

RNG = np.random.default_rng(11)


def save(path: Path, nodes: list[onnx.NodeProto], shape: list[int | str], rank: int, **arrays: np.ndarray) -> Path:
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, [f"d{axis}" for axis in range(rank)])]
    stored = [numpy_helper.from_array(array, name) for name, array in arrays.items()]
    graph = helper.make_graph(nodes, "g", inputs, outputs, stored)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


SCALES = {
    "sx": np.array(0.5, np.float32),
    "zx": np.array(3, np.uint8),
    "sw": np.array([0.25, 0.5], np.float32),
    "zw": np.zeros(2, np.int8),
}
DECODED = [
    helper.make_node("QuantizeLinear", ["x", "sx", "zx"], ["xq"]),
    helper.make_node("DequantizeLinear", ["xq", "sx", "zx"], ["xf"]),
]


def simulated(path: Path) -> Saturating:
    found = Saturating.of(path)
    assert found is not None
    return found


def stopping(products: np.ndarray) -> np.ndarray:
    """The sum over the last axis as pairs in 16 bits."""
    if products.shape[-1] % 2:
        products = np.concatenate([products, np.zeros((*products.shape[:-1], 1), products.dtype)], -1)
    return np.clip(products[..., 0::2] + products[..., 1::2], -32768, 32767).sum(-1)


def quantized(x: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(x / 0.5) + 3, 0, 255).astype(np.int64)


@pytest.mark.parametrize("columns", [8, 7])
def test_a_product(tmp_path: Path, columns: int) -> None:
    weight = RNG.integers(-127, 128, (columns, 2)).astype(np.int8)
    weight[:, 0] = 127
    nodes = [
        *DECODED,
        helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["wf"], axis=1),
        helper.make_node("MatMul", ["xf", "wf"], ["y"]),
    ]
    path = save(tmp_path / "net.onnx", nodes, ["n", 3, columns], 3, w=weight, **SCALES)
    x = RNG.uniform(0, 126, (2, 3, columns)).astype(np.float32)
    found = simulated(path)
    (out,) = found.run({"x": x})
    xq, wide = quantized(x), weight.astype(np.int64)
    sums = stopping(xq[:, :, None, :] * wide.T[None, None]) - 3 * wide.sum(0)
    np.testing.assert_allclose(out, sums * 0.5 * SCALES["sw"], rtol=1e-5)
    assert found.stopped > 0
    assert found.pairs == 2 * 3 * 2 * 4


@pytest.mark.parametrize("group", [1, 2])
def test_a_convolution(tmp_path: Path, group: int) -> None:
    channels = 4
    weight = RNG.integers(-127, 128, (2, channels // group, 3, 2)).astype(np.int8)
    weight[0] = 120
    nodes = [
        *DECODED,
        helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["wf"], axis=0),
        helper.make_node("Conv", ["xf", "wf"], ["y"], pads=[1, 0, 1, 2], strides=[2, 1], group=group),
    ]
    path = save(tmp_path / "net.onnx", nodes, ["n", channels, 6, 5], 4, w=weight, **SCALES)
    x = RNG.uniform(0, 126, (2, channels, 6, 5)).astype(np.float32)
    found = simulated(path)
    (out,) = found.run({"x": x})
    padded = np.pad(quantized(x), ((0, 0), (0, 0), (1, 1), (0, 2)), constant_values=3)
    expected = np.zeros_like(out)
    for sample, row, down, right in np.ndindex(*out.shape):
        first = row * (group - 1) * (channels // group)
        patch = padded[sample, first : first + channels // group, 2 * down : 2 * down + 3, right : right + 2]
        products = (patch * weight[row].astype(np.int64)).transpose(1, 2, 0).reshape(-1)
        total = stopping(products) - 3 * weight[row].astype(np.int64).sum()
        expected[sample, row, down, right] = total * 0.5 * SCALES["sw"][row]
    np.testing.assert_allclose(out, expected, rtol=1e-5)
    assert found.stopped > 0


def test_a_product_of_integers_with_ranges_of_the_call(tmp_path: Path) -> None:
    weight = np.full((4, 2), 127, np.int8)
    nodes = [
        helper.make_node("DynamicQuantizeLinear", ["x"], ["xq", "s", "z"]),
        helper.make_node("MatMulInteger", ["xq", "w", "z"], ["i"]),
        helper.make_node("Cast", ["i"], ["f"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["f", "s"], ["y"]),
    ]
    path = save(tmp_path / "net.onnx", nodes, ["n", 3, 4], 3, w=weight)
    x = np.full((1, 3, 4), 2, np.float32)
    found = simulated(path)
    (out,) = found.run({"x": x})
    np.testing.assert_allclose(out, 2 * 32767 * 2 / 255, rtol=1e-4)
    assert found.stopped == found.pairs == 3 * 2 * 2


def convolution(path: Path, weight: np.ndarray) -> Path:
    nodes = [
        *DECODED,
        helper.make_node("DequantizeLinear", ["w", "sw", "zw"], ["wf"], axis=0),
        helper.make_node("Conv", ["xf", "wf"], ["y"], group=4 // weight.shape[1]),
    ]
    scales = {**SCALES, "sw": np.ones(len(weight), np.float32), "zw": np.zeros(len(weight), np.int8)}
    return save(path, nodes, ["n", 4, 5, 5], 4, w=weight, **scales)


def test_small_weights_never_stop(tmp_path: Path) -> None:
    path = convolution(tmp_path / "net.onnx", np.full((2, 4, 1, 1), 64, np.int8))
    x = np.full((1, 4, 5, 5), 126, np.float32)
    found = simulated(path)
    np.testing.assert_allclose(found.run({"x": x})[0], Session(path).run({"x": x})[0], rtol=1e-6)
    assert found.stopped == 0


def test_depthwise_kernels_never_stop(tmp_path: Path) -> None:
    assert Saturating.of(convolution(tmp_path / "net.onnx", np.full((4, 1, 3, 3), 127, np.int8))) is None


@pytest.mark.portability
def test_portable_is_the_remedy(digits: Path, digit_images: dict[str, np.ndarray], tmp_path: Path) -> None:
    files = []
    for portable in (False, True):
        files.append(tmp_path / f"{portable}.onnx")
        library.quantize(digits, digit_images, method="rtn", weights="int8", portable=portable).save(files[-1])
    found = compare(Compared(digits, files, digit_images), Stages())
    usual, portable = (file.portability for file in found.files)
    assert usual is not None
    assert portable is not None
    assert (usual.lost_db > 3, portable.lost_db < 1) == (True, True)
    assert (usual.stopped > 0, portable.stopped) == (True, 0)


@pytest.mark.portability
def test_a_file_without_int8_products_has_none(folder: Folder) -> None:
    (file,) = compare(Compared(folder.model, [folder.model], folder.data), Stages()).files
    assert file.portability is None


@pytest.mark.portability
def test_what_cannot_be_simulated_is_said(tmp_path: Path) -> None:
    weights = {
        name: RNG.normal(size=size).astype(np.float32) for name, size in (("v", (8, 6)), ("b", 6), ("w", (6, 3)))
    }
    nodes = [
        helper.make_node("MatMul", ["x", "v"], ["h"]),
        helper.make_node("BiasGelu", ["h", "b"], ["g"], domain="com.microsoft"),
        helper.make_node("MatMul", ["g", "w"], ["y"]),
    ]
    model = save(tmp_path / "net.onnx", nodes, ["n", 8], 2, **weights)
    data = {"x": RNG.normal(size=(4, 8)).astype(np.float32)}
    said = (
        "what processors without VNNI answer was not simulated: the type of 'g' is not known, so that the graph cannot "
        "be run in pieces"
    )
    in_int8 = library.quantize(model, data, method="rtn", weights="int8")
    assert in_int8.report.portability is None
    assert said in in_int8.report.notes
    files = [tmp_path / f"{name}.onnx" for name in ("one", "two", "weights")]
    for path in files[:2]:
        in_int8.save(path)
    library.quantize(model, method="rtn", weights="int8").save(files[2])  # in float, and so alike everywhere
    found = compare(Compared(model, files, data), Stages())
    assert [file.portability for file in found.files] == [None, None, None]
    assert [note for note in found.notes if "VNNI" in note] == [f"one.onnx, two.onnx: {said}"]
