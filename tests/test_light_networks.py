"""Nine classic networks that the onnx package ships, of opset 9, with weights that nodes fill with one number."""

from __future__ import annotations

import collections
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest

import ptq
from ptq.model.graph import Model

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
SITES = {"squeezenet": 26, "shufflenet": 50, "inception_v1": 58, "inception_v2": 70, "resnet50": 54, "densenet121": 121}
LARGE = {"bvlc_alexnet": 8, "zfnet512": 8, "vgg19": 19}
"""Those whose first dense layer has so many weights that a run takes seconds and gigabytes."""

LEFT = {"densenet121": {"ConstantOfShape", "Unsqueeze", "Mul", "Add", "BatchNormalization"}}
"""What stays beside the usual: DenseNet normalizes before its convolutions, which nothing can take up."""

USUAL = {
    *("Conv", "Gemm", "Relu", "MaxPool", "AveragePool", "GlobalAveragePool", "Concat", "Add", "LRN", "Softmax"),
    *("Reshape", "Flatten", "Transpose"),
}


def light(name: str) -> onnx.ModelProto:
    """The network up to what its Softmax reads: what comes out of that is one number a thousand times."""
    proto = onnx.load(FOLDER / f"light_{name}.onnx")
    last = next((node for node in proto.graph.node if node.op_type == "Softmax"), None)
    if last is not None:
        proto.graph.node.remove(last)
        proto.graph.output[0].name = last.input[0]
        proto.graph.output[0].type.tensor_type.ClearField("shape")
    return proto


def images(proto: onnx.ModelProto, count: int = 1) -> dict[str, np.ndarray]:
    """Noise for the one input that has no initializer."""
    known = {tensor.name for tensor in proto.graph.initializer}
    (name,) = [value.name for value in proto.graph.input if value.name not in known]
    return {name: np.random.default_rng(1).normal(size=(count, 3, 224, 224)).astype(np.float32)}


def outputs(proto: onnx.ModelProto) -> np.ndarray:
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: np.ndarray = session.run(None, images(proto))[0]
    return found


def prepared(proto: onnx.ModelProto) -> Model:
    """The prepared model, which has to compute what the file does."""
    made = Model.of(ir.from_proto(proto))
    old, new = outputs(proto), outputs(ir.to_proto(made.graph))
    np.testing.assert_allclose(new, old, rtol=1e-3, atol=1e-4 * np.abs(old).max())
    return made


def stored(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The network with random weights that are stored, positive where they are variances."""
    rng = np.random.default_rng(2)
    held = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    variances = {node.input[4] for node in proto.graph.node if node.op_type == "BatchNormalization"}
    for node in list(proto.graph.node):
        if node.op_type == "ConstantOfShape":
            shape, name = held[node.input[0]], node.output[0]
            fan = np.prod(shape[1:]) if len(shape) > 1 else 1
            array = rng.normal(size=shape) / np.sqrt(fan)
            array = np.abs(array) + 0.5 if name in variances else array
            proto.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
            proto.graph.input.append(onnx.helper.make_tensor_value_info(name, 1, shape.tolist()))
            proto.graph.node.remove(node)
    return proto


@pytest.mark.parametrize("name", [*SITES, *(pytest.param(name, marks=pytest.mark.slow) for name in LARGE)])
def test_every_layer_is_found(name: str) -> None:
    made = prepared(light(name))
    assert len(made.sites) == (SITES | LARGE)[name]
    assert {node.op_type for node in made.graph.graph} <= USUAL | LEFT.get(name, set())


@pytest.mark.parametrize("name", ["shufflenet", "inception_v2", "densenet121"])
def test_with_other_weights(name: str) -> None:
    made = prepared(stored(light(name)))
    kinds = collections.Counter(node.op_type for node in made.graph.graph)
    assert len(made.sites) == SITES[name]
    assert set(kinds) <= USUAL | {"BatchNormalization"}
    assert kinds["BatchNormalization"] == (62 if name == "densenet121" else 0)


def test_equal_weights_are_quantized_and_the_larger_file_is_warned_of() -> None:
    """With two points: one is off by up to half a per cent, by the same in every layer, and they lie one in another."""
    proto = light("squeezenet")
    result = ptq.quantize(proto, points=2)
    assert [layer.format for layer in result.report.layers] == ["int4"] * 26
    assert any("the file is not smaller" in warning for warning in result.report.warnings)
    old, new = outputs(proto).astype(np.float64), outputs(onnx.load_from_string(result.content)).astype(np.float64)
    assert ((old - new) ** 2).sum() < 1e-4 * (old**2).sum()  # 40 dB


@pytest.mark.slow
@pytest.mark.parametrize("name", ["squeezenet", "shufflenet", "inception_v1", "inception_v2", "densenet121"])
def test_equal_weights_in_integers(name: str) -> None:
    """The activations of Inception reach 10^20 in v1, as nothing normalizes them: their squares are beyond float32.

    What two points are off by, up to half a per cent, is the same for all equal weights: it grows from layer to layer.
    """
    proto = light(name)
    assert np.isfinite(outputs(proto)).all()
    result = ptq.quantize(proto, images(proto, 2), points=2, rounding="nearest")
    assert all(layer.integer for layer in result.report.layers), result.report.kernels
    assert any("the file is not smaller" in warning for warning in result.report.warnings)
    assert result.report.accuracy is not None
    assert result.report.accuracy.nonfinite == 0
    sqnr_db = result.report.accuracy.sqnr_db  # None says that the outputs are equal, as all of them are finite
    most = 1.005 ** len(result.report.layers) - 1
    assert sqnr_db is None or sqnr_db > min(20.0, -20 * np.log10(most))
