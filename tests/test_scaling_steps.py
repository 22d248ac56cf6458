"""Equalization, SmoothQuant and AWQ: the papers' numbers, and what they are for."""

from __future__ import annotations

import re
from collections.abc import Mapping

import graphs
import numpy as np
import onnx_ir as ir
import pytest
import torch
from step_networks import NETWORKS, feeds, images, steps, uneven

import ptq
from ptq.errors import OptionError
from ptq.model.graph import Model
from ptq.model.session import Session
from ptq.recipe import Recipe
from ptq.steps import awq, cross_layer_equalization, smoothquant


def ranges(model: Model, first: str, second: str) -> tuple[np.ndarray, np.ndarray]:
    by_weight = {site.weight: site for site in model.sites}
    rows = np.abs(model.matrix(by_weight[first])).max(1)
    reader = by_weight[second]
    columns = np.abs(model.matrix(reader)).reshape(reader.groups, -1, reader.columns).max(1)
    return rows, columns.reshape(len(rows), -1).max(1)


@pytest.mark.parametrize(
    ("network", "pairs"),
    [
        ("separable", [("w0", "w1"), ("w1", "w2")]),
        ("flattened", [("w0", "w1"), ("w1", "w2")]),
        ("tokens", [("w1", "w2")]),
        ("residual", [("w1", "w2"), ("w3", "w4")]),
    ],
)
def test_equalized_layers_have_the_same_ranges(network: str, pairs: list[tuple[str, str]]) -> None:
    proto = NETWORKS[network]
    model = Model.of(ir.from_proto(proto))
    made = steps(model, feeds(proto), "cross-layer-equalization")
    changed = made.before(model)
    for first, second in pairs:
        rows, columns = ranges(changed, first, second)
        np.testing.assert_allclose(rows, columns, rtol=5e-3)
        rows, columns = ranges(model, first, second)
        assert (np.abs(np.log(rows / columns)) > 0.1).any()
    found = re.match(r"cross-layer-equalization: (\d+) pairs? of layers balanced(; left alone: .+)?$", made.notes[0])
    assert found is not None
    assert int(found[1]) == len(pairs)


def test_two_layers_are_balanced_by_the_formula() -> None:
    """Both ranges become the geometric mean, in one step, and dead channels are left."""
    rows, columns = np.array([4.0, 0.25, 1.0, 0.0]), np.array([1.0, 1.0, 9.0, 2.0])
    weights = {"a": rows.reshape(1, 4, 1), "b": columns.reshape(1, 1, 4)}
    (factors,) = cross_layer_equalization.balance(weights, [("a", "b")])
    np.testing.assert_allclose(factors, [2.0, 0.5, 1 / 3, 1.0])
    np.testing.assert_allclose((rows / factors)[:3], np.sqrt(rows * columns)[:3])


def test_what_is_not_homogeneous_is_left_alone() -> None:
    clipped = images(
        "zero = Constant <value_float = 0.0> () six = Constant <value_float = 6.0> ()"
        "a = Conv (x, w0) b = Clip (a, zero, six) y = Conv (b, w1)",
        {"w0": uneven(8, 4, 1, 1), "w1": uneven(6, 8, 1, 1)},
    )
    model = Model.of(ir.from_proto(clipped))
    message = "finds no pair of layers: .*1 behind Clip.*; leave it out$"
    with pytest.raises(OptionError, match=message):
        steps(model, feeds(clipped), "cross-layer-equalization").before(model)


def test_weights_on_a_grid_are_left_alone() -> None:
    grid = {"w0": np.random.default_rng(1).integers(-7, 8, (8, 4, 1, 1)).astype(np.float32), "w1": uneven(6, 8, 1, 1)}
    trained = images("a = Conv (x, w0) b = Relu (a) y = Conv (b, w1)", grid)
    model = Model.of(ir.from_proto(trained))
    with pytest.raises(OptionError, match="1 of weights that are on a grid already"):
        steps(model, feeds(trained), "cross-layer-equalization").before(model)


def test_a_tensor_times_itself_is_no_gate() -> None:
    """A factor in front of a square comes out squared."""
    weights = {"w0": uneven(4, 6), "w1": uneven(6, 5)}
    squared = graphs.with_arrays(
        "a = Gemm (x, w0) b = Mul (a, a) y = Gemm (b, w1)", "float[n, 4] x", "float[n, 5] y", weights
    )
    model = Model.of(ir.from_proto(squared))
    with pytest.raises(OptionError, match="1 behind Mul"):
        steps(model, {"x": uneven(8, 4)}, "cross-layer-equalization").before(model)


def test_equalization_helps_weights_that_share_a_scale() -> None:
    proto = NETWORKS["separable"]
    data = feeds(proto)
    expected = Session(proto.SerializeToString()).run(data)[0]

    def noise(**options: object) -> float:
        got = Session(ptq.quantize(proto, data, method="rtn", weights="int8", group="tensor", **options).content)
        return float(np.square(got.run(data)[0] - expected).sum())

    assert noise(steps="cross-layer-equalization") * 4 < noise()


@pytest.mark.parametrize(("alpha", "factors"), [(0.5, [4, 1, 4, 0.5]), (0.75, [8, 1, 4, 0.5])])
def test_smoothquant_by_the_papers_formula(alpha: float, factors: list[float]) -> None:
    largest, weight = torch.tensor([16, 1, 4, 0.5]), torch.tensor([1, 1, 0.25, 2])
    found = smoothquant.strengths(largest, weight, alpha)
    np.testing.assert_allclose(found, factors, rtol=1e-6)
    if alpha == 0.5:
        np.testing.assert_allclose(largest / found, [4, 1, 1, 1], rtol=1e-6)
        np.testing.assert_allclose(weight * found, [4, 1, 1, 1], rtol=1e-6)


def test_smoothquant_evens_inputs_and_weights_with_half_the_strength() -> None:
    """At 0.5 the largest magnitudes of a channel of the input and of the weights are the same."""
    proto = NETWORKS["tokens"]
    model, data = Model.of(ir.from_proto(proto)), feeds(proto)
    changed = steps(model, data, "smoothquant").before(model)
    for site in changed.sites[2:]:  # of the first two, rows have taken the factors of the gated input
        name = site.uses[0].input
        seen = np.abs(changed.session([name]).run(data, [name])[0]).reshape(-1, site.columns).max(0)
        weights = [changed.matrix(s) for s in changed.sites if s.uses[0].input == name]
        np.testing.assert_allclose(seen, np.abs(np.concatenate(weights)).max(0), rtol=1e-4)


@pytest.mark.parametrize("alpha", [-0.1, 1.5])
def test_a_strength_is_a_part(alpha: float) -> None:
    with pytest.raises(OptionError, match=r"is not from 0 to 1; give for example 0.5$"):
        Recipe.of({"steps": "smoothquant", "alpha": alpha})


def test_a_strength_needs_a_reader() -> None:
    with pytest.raises(OptionError, match="--alpha is read by --step smoothquant"):
        Recipe.of({"alpha": 0.5}).plan(Model.of(ir.from_proto(NETWORKS["tokens"])).sites, has_data=True)


def test_smoothquant_needs_rounded_inputs() -> None:
    with pytest.raises(
        OptionError, match=r"finds no product with a weight of its own whose input is rounded; leave it out$"
    ):
        ptq.quantize(
            NETWORKS["tokens"], feeds(NETWORKS["tokens"]), method="rtn", activations="none", steps="smoothquant"
        )


def test_awq_by_the_papers_formula() -> None:
    found = awq.strengths(torch.tensor([4, 1, 0.25, 9], dtype=torch.float64), 0.5)
    np.testing.assert_allclose(found, [1.63299316, 0.81649658, 0.40824829, 2.44948974], atol=5e-9)


def test_awq_helps_where_few_channels_are_large() -> None:
    rng = np.random.default_rng(0)
    weights = {"gamma": np.ones(64, np.float32), "w": rng.normal(0, 1, (64, 32)).astype(np.float32)}
    proto = graphs.with_arrays(
        "n = Mul (x, gamma) y = MatMul (n, w)", "float[n, t, 64] x", "float[n, t, 32] y", weights
    )
    x = rng.normal(0, 1, (16, 20, 64)).astype(np.float32)
    x[..., :3] *= 30
    expected = Session(proto.SerializeToString()).run({"x": x})[0]

    def noise(**options: object) -> float:
        common = {"method": "rtn", "weights": "int3", "group": "32", "activations": "none"}
        made = ptq.quantize(proto, {"x": x}, **common, **options)
        return float(np.square(Session(made.content).run({"x": x})[0] - expected).sum())

    assert noise(steps="awq") * 1.5 < noise()


def test_the_digits_are_equalized(digits_model: Model, digit_images: Mapping[str, np.ndarray]) -> None:
    made = steps(digits_model, digit_images, "cross-layer-equalization")
    changed = made.before(digits_model)
    expected, got = (each.session().run(digit_images)[0] for each in (digits_model, changed))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    assert len(changed.graph.graph) == len(digits_model.graph.graph)
