"""Smoothing: the same function, a smaller range, and less error in the written file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import graphs
import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from torch import Tensor

import ptq
from ptq.errors import OptionError
from ptq.model.graph import Model
from ptq.model.rescale import Rescaling, normalized, rescaled
from ptq.model.session import Session
from ptq.recipe import Recipe
from ptq.smoothing import smooth, uneven

K, N, BATCH, TOKENS = 48, 32, 6, 10


@dataclass
class Seen:
    low: Tensor
    high: Tensor
    power: Tensor


def seen(x: Tensor) -> Seen:
    return Seen(x.amin(0), x.amax(0), x.square().mean(0))


def inputs(outlier: float, *, rare: bool = False) -> Tensor:
    x = torch.randn(4000, K, generator=torch.Generator().manual_seed(0))
    x[:: 100 if rare else 1, 3] *= outlier
    return x


WEIGHT = torch.randn(N, K, generator=torch.Generator().manual_seed(1))


def measured_error(x: Tensor, weight: Tensor, scale: Tensor, aside: Tensor) -> float:
    """What rounding the smoothed input to 8 bits and the weight to int8 does to the output."""
    kept = torch.ones(K, dtype=torch.bool)
    kept[aside] = False
    scaled, divided = (x * scale)[:, kept], weight[:, kept] / scale[kept]
    step = (scaled.max() - scaled.min()) / 255
    rows = divided.abs().amax(1, keepdim=True) / 127
    got = (scaled / step).round() * step @ ((divided / rows).round() * rows).T + x[:, aside] @ weight[:, aside].T
    return float((got - x @ weight.T).square().mean())


@pytest.mark.parametrize(("outlier", "rare", "least"), [(30.0, False, 8.0), (60.0, True, 30.0)])
def test_an_outlier_channel_costs_the_others_less(outlier: float, rare: bool, least: float) -> None:
    x = inputs(outlier, rare=rare)
    found = smooth(seen(x), [WEIGHT], 127)
    assert found is not None
    nothing = torch.zeros(0, dtype=torch.long)
    plain = measured_error(x, WEIGHT, torch.ones(K), nothing)
    assert measured_error(x, WEIGHT, found.scale, found.aside) * least < plain
    assert (found.scale[found.aside] == 0).all()
    assert (found.scale > 0).sum() == K - len(found.aside)


def test_a_rare_giant_is_computed_in_float() -> None:
    found = smooth(seen(inputs(1000.0, rare=True)), [WEIGHT], 127)
    assert found is not None
    assert found.aside.tolist() == [3]


def test_even_channels_are_left_alone() -> None:
    assert smooth(seen(inputs(1.0)), [WEIGHT], 127) is None


@pytest.mark.parametrize("case", ["dead channel", "zero weights", "zero input", "one channel"])
def test_awkward_channels_give_finite_scales(case: str) -> None:
    x, weight = inputs(50.0), WEIGHT.clone()
    if case == "dead channel":
        x[:, 7] = 0
    if case == "zero weights":
        weight[:, 3:9] = 0
    if case == "zero input":
        x = torch.zeros_like(x)
    if case == "one channel":
        x, weight = x[:, :1], weight[:, :1]
    found = smooth(seen(x), [weight], 127)
    if found is not None:
        assert found.scale.isfinite().all()
        assert (found.scale[found.scale != 0] > 1e-12).all()


BODIES = {
    "plain": "h = MatMul (x, w)\n y = Add (h, b)",
    "shared": "h = MatMul (x, w)\n i = MatMul (x, v)\n y = Add (h, i)",
    "normalized": "n = LayerNormalization <axis = -1> (x, gamma, beta)\n h = MatMul (n, w)\n y = Add (h, b)",
    "normalized, read elsewhere": (
        "n = LayerNormalization <axis = -1> (x, gamma, beta)\n h = MatMul (n, w)\n"
        " m = ReduceSum <keepdims = 1> (n)\n y = Add (h, m)"
    ),
    "gated": "n = Mul (x, gamma)\n h = MatMul (n, w)\n y = Add (h, b)",
}


def network(name: str) -> onnx.ModelProto:
    generator = np.random.default_rng(2)
    shapes = {"w": (K, N), "v": (K, N), "b": (N,), "gamma": (K,), "beta": (K,)}
    known = {key: generator.normal(1.0, 0.5, shape).astype(np.float32) for key, shape in shapes.items()}
    body = {**BODIES, "gemm": "y = Gemm (x, w, b)"}[name]
    used = {key: array for key, array in known.items() if re.search(rf"\b{key}\b", body)}
    axes = "n" if name == "gemm" else "n, t"
    return graphs.with_arrays(body, f"float[{axes}, {K}] x", f"float[{axes}, {N}] y", used)


def feeds(outlier: float = 40.0) -> dict[str, np.ndarray]:
    x = np.random.default_rng(3).normal(size=(BATCH, TOKENS, K)).astype(np.float32)
    x[..., 5] *= outlier
    return {"x": x}


@pytest.mark.parametrize("aside", [[], [5], [0, 5, 47]], ids=str)
@pytest.mark.parametrize("name", BODIES)
def test_a_rescaled_graph_is_the_same_function(name: str, aside: list[int]) -> None:
    model = Model.of(ir.from_proto(network(name)))
    scale = np.random.default_rng(4).uniform(0.1, 4.0, K).astype(np.float32)
    scale[aside] = 0
    made = rescaled(model, [Rescaling(model.sites, scale, np.array(aside, np.int64))])
    expected, got = (each.session().run(feeds())[0] for each in (model, made))
    np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-4 * np.abs(expected).max())
    assert [site.name for site in made.sites] == [site.name for site in model.sites]
    ops = [node.op_type for node in made.graph.graph]
    folds = name in ("normalized", "gated") and not aside
    assert len(ops) == len(list(model.graph.graph)) + (not folds) + 3 * len(model.sites) * bool(aside)


@pytest.mark.parametrize("name", [*BODIES, "gemm"])
def test_a_normalized_graph_is_the_same_function(name: str) -> None:
    """Also for a vector of zeros, and one of the smallest and one of the largest floats."""
    proto = network(name)
    model, data = Model.of(ir.from_proto(proto)), feeds()
    data["x"][0, 0], data["x"][0, 1], data["x"][0, 2] = 0.0, 1e-38, 1e30
    data = {"x": data["x"].reshape(-1, K)} if name == "gemm" else data
    made = normalized(model, {site.name for site in model.sites})
    expected, got = (each.session().run(data)[0] for each in (model, made))
    np.testing.assert_allclose(got, expected, rtol=2e-4, atol=2e-5 * np.abs(expected).max())
    assert [site.name for site in made.sites] == [site.name for site in model.sites]
    assert [str(value.name) for value in made.graph.graph.outputs] == ["y"]
    assert sum(node.op_type == "ReduceMax" for node in made.graph.graph) == 1


def test_vectors_are_uneven_where_few_are_large() -> None:
    even = inputs(1.0)
    assert not uneven(seen(even))
    assert not uneven(seen(torch.zeros(10, K)))
    even[::100] *= 20
    assert uneven(seen(even))


def test_a_large_vector_takes_nothing_from_the_others() -> None:
    """The range of one call is that of its largest vector, unless each has its own."""
    proto, data = network("plain"), {"x": np.tile(feeds(1.0)["x"], (1, 10, 1))}
    data["x"][:, 0] *= 50
    result = ptq.quantize(proto, data, method="rtn", weights="int8")
    expected, got = (Session(each).run(data)[0][:, 1:] for each in (proto.SerializeToString(), result.content))
    assert 10 * np.log10((expected**2).sum() / ((expected - got) ** 2).sum()) > 30
    assert all(layer.integer for layer in result.report.layers)


def test_the_file_is_closer_to_float_with_smoothing() -> None:
    """Against the same job with the outlier's scale taken out by hand, which smoothing has to come near to."""
    model, data = network("plain"), feeds()
    result = ptq.quantize(model, data, method="rtn", weights="int8")
    assert all(layer.integer for layer in result.report.layers)
    expected = Session(model.SerializeToString()).run(data)[0]
    got = Session(result.content).run(data)[0]
    sqnr = 10 * np.log10((expected**2).sum() / ((expected - got) ** 2).sum())
    plain = ptq.quantize(model, method="rtn", weights="int8", activations="dynamic")
    without = Session(plain.content).run(data)[0]
    assert sqnr > 10 * np.log10((expected**2).sum() / ((expected - without) ** 2).sum()) + 6


@pytest.mark.parametrize(
    ("options", "limit"),
    [
        ({"method": "rtn", "weights": "int8"}, 127),
        ({"method": "rtn", "weights": "int4"}, 7),
        ({"method": "rtn", "weights": "uint4"}, 15),
        ({"method": "gptq", "weights": "lloyd4"}, 7),
        ({"method": "multipoint", "points": 2}, 127),
        ({"method": "multipoint", "bits": 6.0}, 31),
        ({"method": "mixed", "bits": 5.0}, 15),
        ({"method": "mixed", "max_latency": 0.5}, 127),
    ],
    ids=str,
)
def test_inputs_are_smoothed_for_weights_as_fine_as_they_become(options: dict[str, Any], limit: float) -> None:
    """On MiniLM two points of int4, which are as fine as int8, have 24.1 dB when smoothed for int4, and 27.7 so."""
    model = Model.of(ir.from_proto(graphs.attention()))
    plan = Recipe.of({"activations": "dynamic", **options}).plan(model.sites, has_data=True)
    site = next(site for site in model.sites if site.products)
    assert plan.limit(site.name) == limit


def test_a_weight_in_two_layouts_is_scaled_for_neither() -> None:
    """Two layers read it, and what is scaled for one would be another weight for the other."""
    body = "h = MatMul (x, w)\n r = Relu (h)\n y = Gemm <transB = 1> (r, w)"
    proto = graphs.model(body, f"float[n, {K}] x", f"float[n, {K}] y", {"w": (K, K)})
    data = {"x": feeds()["x"].reshape(-1, K)}
    result = ptq.quantize(proto, data, method="rtn", weights="int8", activations="dynamic")
    expected, got = (Session(each).run(data)[0] for each in (proto.SerializeToString(), result.content))
    assert 10 * np.log10((expected**2).sum() / ((expected - got) ** 2).sum()) > 20
    for step in ("awq", "smoothquant"):
        with pytest.raises(OptionError, match="a weight of its own"):
            ptq.quantize(proto, data, method="rtn", weights="int8", steps=(step,))
