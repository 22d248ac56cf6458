"""What drawn graphs led to, in the smallest graph that shows it."""

from __future__ import annotations

import graphs
import numpy as np
import onnx
import pytest
from every_site import quantized
from written_layers import grids

import ptq as library
from ptq.errors import OptionError
from ptq.model.session import Session

INT8 = {"method": "rtn", "weights": "int8"}


def normal(*shape: int) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(3).standard_normal(shape).astype(np.float32)}


def both(content: bytes, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    """The first output with and without optimization."""
    return [Session(content, optimize=optimize).run(feeds)[0] for optimize in (True, False)]


def test_a_product_of_two_quantized_tensors_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A scale per channel is one that the kernel of such products does not take."""
    nodes = """
        a = Conv (x, w)
        t = Transpose <perm = [0, 1, 3, 2]> (a)
        s = MatMul (a, t)
        p = Softmax (s)
        o = MatMul (p, a)
        y = Conv (o, v)
    """
    model = graphs.model(nodes, "float[n, 2, 4, 3] x", "float[n, 2, 4, 3] y", {"w": (2, 2, 1, 1), "v": (2, 2, 1, 1)})
    feeds = normal(8, 2, 4, 3)
    made = quantized(monkeypatch, model, feeds, **INT8)
    (expected,) = Session(model.SerializeToString()).run(feeds)
    for got in both(made.result.content, feeds):
        np.testing.assert_allclose(got, expected, atol=0.02 * np.abs(expected).max())


def test_kernels_that_stay_float_need_no_known_sizes_of_their_input(monkeypatch: pytest.MonkeyPatch) -> None:
    nodes = """
        a = Gemm (x, w)
        t = Transpose <perm = [1, 0]> (a)
        y = Gemm <transA = 1> (t, v)
        z = Gemm (a, u)
    """
    weights = {"w": (6, 5), "v": (5, 3), "u": (5, 2)}
    model = graphs.model(nodes, "float[n, k] x", "float[n, m] y, float[n, 2] z", weights)
    feeds = normal(8, 6)
    made = quantized(monkeypatch, model, feeds, **INT8)
    expected = Session(model.SerializeToString()).run(feeds)[0]
    for got in both(made.result.content, feeds):
        np.testing.assert_allclose(got, expected, atol=0.02 * np.abs(expected).max())


@pytest.mark.parametrize("mode", ["SAME_UPPER", "SAME_LOWER"])
def test_padding_by_rule_is_that_of_the_sizes_that_come(monkeypatch: pytest.MonkeyPatch, mode: str) -> None:
    """Rows are rounded alike whether the graph says the sizes of its images or not."""
    nodes = f'y = Conv <auto_pad = "{mode}", strides = [2, 3]> (x, w)'
    said = {"w": (4, 2, 4, 3)}
    files = []
    for sizes in ("7, 5", "h, w"):
        model = graphs.model(nodes, f"float[n, 2, {sizes}] x", "float[n, 4, a, b] y", said)
        made = quantized(monkeypatch, model, normal(8, 2, 7, 5), method="gptq", weights="int4")
        stored = onnx.load_from_string(made.result.content).graph.initializer
        files.append({each.name: each.SerializeToString() for each in stored})
    assert files[0] == files[1]


def test_biases_behind_nothing_but_zeros_keep_their_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are rounded to steps of input times weight."""
    arrays = {"w": np.full((2, 1, 1, 1), 100, np.float32), "b": np.array([0.3, -1.1], np.float32)}
    model = graphs.with_arrays("y = Conv (x, w, b)", "float[n, 1, 3, 3] x", "float[n, 2, 3, 3] y", arrays)
    feeds = {"x": np.zeros((4, 1, 3, 3), np.float32)}
    made = quantized(monkeypatch, model, feeds, **INT8)
    for got in both(made.result.content, feeds):
        np.testing.assert_allclose(got[0, :, 0, 0], arrays["b"], atol=0.005)


@pytest.mark.parametrize(("low", "high"), [(-0.01, 4.0), (-4.0, 0.01)])
def test_a_bound_of_less_than_a_step_costs_no_range(monkeypatch: pytest.MonkeyPatch, low: float, high: float) -> None:
    nodes = f"""
        low = Constant <value_float = {low}> ()
        high = Constant <value_float = {high}> ()
        a = Conv (x, w)
        c = Clip (a, low, high)
        y = Conv (c, w)
    """
    model = graphs.model(nodes, "float[n, 1, 4, 4] x", "float[n, 1, 4, 4] y", {"w": (1, 1, 1, 1)})
    made = quantized(monkeypatch, model, {"x": 40 * normal(8, 1, 4, 4)["x"]}, **INT8)
    step, zero = grids(onnx.load_from_string(made.result.content))["c"]
    assert -zero * step == pytest.approx(low, abs=step)
    assert (255 - zero) * step == pytest.approx(high, abs=step)


def test_an_input_of_a_convolution_and_of_a_product_has_means_along_both_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bias takes up what rounding does to the mean of its output, be there other readers or not."""
    conv, product = "c = Conv (x, w, b)", "p = MatMul (x, v) y = Add (p, d)"
    told = {"c": "float[n, 3, 1] c", "y": "float[n, 6, 4] y"}
    weights = {"w": (3, 6, 1), "b": (3,), "v": (1, 4), "d": (4,)}
    feeds = {"x": normal(8, 6, 1)["x"] + np.arange(6, dtype=np.float32)[:, None]}

    def biases(nodes: str, outputs: str, names: str) -> dict[str, bytes]:
        model = graphs.model(nodes, "float[n, 6, 1] x", outputs, weights)
        unread = [each for each in model.graph.initializer if each.name not in names]
        for each in unread:
            model.graph.initializer.remove(each)
        made = quantized(monkeypatch, model, feeds, method="rtn", weights="int4")
        stored = onnx.load_from_string(made.result.content).graph.initializer
        return {each.name: each.SerializeToString() for each in stored if each.name in ("b", "d")}

    apart = biases(conv, told["c"], "wb") | biases(product, told["y"], "vd")
    assert biases(f"{conv} {product}", ", ".join(told.values()), "wbvd") == apart


def test_biases_fit_behind_tensors_that_share_a_tiny_range(monkeypatch: pytest.MonkeyPatch) -> None:
    """They count steps of input times weight in 32 bits."""
    arrays = {"w": np.full((2, 1, 1, 1), 1e-9, np.float32), "v": np.ones((1, 2, 1, 1), np.float32)}
    nodes = "a = Conv (x, w) m = MaxPool <kernel_shape = [2, 2]> (a) y = Conv (m, v, b)"
    model = graphs.with_arrays(
        nodes, "float[n, 1, 4, 4] x", "float[n, 1, 3, 3] y", {**arrays, "b": np.array([-0.7], np.float32)}
    )
    feeds = normal(4, 1, 4, 4)
    made = quantized(monkeypatch, model, feeds, **INT8)
    for got in both(made.result.content, feeds):
        np.testing.assert_allclose(got, np.full((4, 1, 3, 3), -0.7), atol=0.01)


def test_a_model_in_memory_keeps_its_constants_as_they_are() -> None:
    nodes = "w = Constant <value = float[2, 3] {1, 2, 3, 4, 5, 7}> () y = MatMul (x, w)"
    model = graphs.with_arrays(nodes, "float[n, 2] x", "float[n, 3] y", {})
    before = model.SerializeToString()
    library.quantize(model, normal(4, 2), **INT8)
    assert model.SerializeToString() == before


SHARED = {
    "Gemm first": "t = Gemm (x, w) y = MatMul (z, w)",
    "MatMul first": "y = MatMul (z, w) t = Gemm (x, w)",
    "a Gemm that is no layer": "t = Gemm <alpha = 0.5> (x, w) y = MatMul (z, w)",
}


@pytest.mark.parametrize("options", [INT8, INT8 | {"target": "tensorrt"}], ids=["cpu", "tensorrt"])
@pytest.mark.parametrize("nodes", SHARED.values(), ids=SHARED)
def test_a_weight_of_products_of_two_ranks(nodes: str, options: dict[str, str]) -> None:
    """The inputs of the products of rank 3 are smoothed, which changes the weight, and their ranges are found later."""
    model = graphs.model(nodes, "float[n, 16] x, float[n, 3, 16] z", "float[n, 4] t, float[n, 3, 4] y", {"w": (16, 4)})
    uneven = np.geomspace(0.1, 10, 16, dtype=np.float32)
    feeds = {"x": normal(8, 16)["x"], "z": normal(8, 3, 16)["x"] * uneven}
    content = library.quantize(model, feeds, **options).content
    expected = Session(model.SerializeToString()).run(feeds)
    for got, wanted in zip(Session(content, optimize=False).run(feeds), expected, strict=True):
        np.testing.assert_allclose(got, wanted, atol=0.03 * np.abs(wanted).max())


def test_a_bias_that_is_a_factor_elsewhere_keeps_its_numbers() -> None:
    """Of a bias that is one and nothing else, rounding takes up what it does to the mean."""
    nodes = "a = Gemm (x, w, b) y = Mul (x, b)"
    arrays = {"w": normal(4, 4)["x"], "b": np.ones(4, np.float32)}
    model = graphs.with_arrays(nodes, "float[n, 4] x", "float[n, 4] a, float[n, 4] y", arrays)
    feeds = {"x": normal(8, 4)["x"] + 3}
    content = library.quantize(model, feeds, method="rtn", weights="int4").content
    np.testing.assert_array_equal(Session(content).run(feeds)[1], feeds["x"])


@pytest.mark.parametrize("steps", [(), ("smoothquant",), ("awq",)])
def test_a_weight_that_is_an_output_keeps_its_numbers(steps: tuple[str, ...]) -> None:
    nodes = "a = MatMul (x, v) b = Relu (a) c = MatMul (b, w) y = Relu (c)"
    inputs, outputs = "float[n, 8, 16] x", "float[n, 8, 12] y, float[16, 12] w"
    model = graphs.model(nodes, inputs, outputs, {"v": (16, 16), "w": (16, 12)})
    feeds = {"x": normal(8, 8, 16)["x"] * np.geomspace(0.1, 30, 16, dtype=np.float32)}
    with pytest.raises(OptionError, match="cross-layer-equalization"):  # whose only pair has such a weight
        library.quantize(model, feeds, steps=("cross-layer-equalization",), **INT8)
    content = library.quantize(model, feeds, steps=steps, **INT8).content
    expected = Session(model.SerializeToString()).run(feeds)
    for got, wanted in list(zip(Session(content).run(feeds), expected, strict=True))[1:]:
        np.testing.assert_array_equal(got, wanted)
