"""With --sequential a layer is rounded for what the layers before it give with their weights rounded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
from command import Command

import ptq
from ptq.errors import OptionError
from ptq.model.blocks import Look, cut
from ptq.model.capture import CaptureOptions, capture
from ptq.model.graph import Model
from ptq.pipeline import build, findings
from ptq.pipeline.calibrate import Statistics
from ptq.pipeline.solved import Given, SiteWeights
from ptq.recipe import Recipe

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
WEIGHTS_ONLY = {"method": "gptq", "weights": "int3", "activations": "none"}


def samples(shape: tuple[int, ...]) -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(3).standard_normal((24, *shape)).astype(np.float32)}


class Watched:
    """What weights are rounded from, and what they become."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.statistics: Statistics | None = None
        self.weights: Mapping[str, SiteWeights] = {}
        self._rounded = build.quantize_weights
        patch.setattr(build, "quantize_weights", self)

    def __call__(self, given: Given, *others: Any) -> Mapping[str, SiteWeights]:
        self.model, self.statistics = given.model, given.statistics
        self.weights = self._rounded(given, *others)
        return self.weights

    def grams(self, arrays: Mapping[str, np.ndarray], feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """The second moments of the inputs of products of a network with these weights."""
        sites = [site for site in self.model.sites if site.products[0].geometry is None]
        session = self.model.with_initializers(arrays).session([site.uses[0].input for site in sites])
        found = {**dict(zip(session.outputs, session.run(feeds), strict=True)), **feeds}
        rows = {site.name: found[site.uses[0].input].reshape(-1, site.columns).astype(float) for site in sites}
        return {name: x.T @ x / len(x) for name, x in rows.items()}


CHAIN = "a0 = Gemm <transB = 1> (x, w0, b0) a = Relu (a0) c0 = MatMul (a, w1) c = Tanh (c0) y = Gemm (c, w2)"


@pytest.fixture
def chain() -> onnx.ModelProto:
    return graphs.model(CHAIN, "float[n, 8] x", "float[n, 5] y", {"w0": (8, 8), "b0": (8,), "w1": (8, 8), "w2": (8, 5)})


@pytest.mark.parametrize("sequential", [False, True])
def test_layers_see_what_rounded_layers_make(
    monkeypatch: pytest.MonkeyPatch, chain: onnx.ModelProto, *, sequential: bool
) -> None:
    watched, feeds = Watched(monkeypatch), samples((8,))
    ptq.quantize(chain, feeds, sequential=sequential, **WEIGHTS_ONLY)
    rounded = {name: array for each in watched.weights.values() for name, array in each.arrays().items()}
    assert len(rounded) == 4  # with the bias, which takes up a part of what rounding does
    seen, other = (watched.grams(arrays, feeds) for arrays in ((rounded, {}) if sequential else ({}, rounded)))
    assert watched.statistics is not None
    for k, (name, gram) in enumerate(seen.items()):
        np.testing.assert_allclose(watched.statistics.moments[name].gram[0], gram, rtol=1e-4, atol=1e-5)
        assert np.allclose(gram, other[name], rtol=1e-3, atol=1e-4) is (k == 0)


@pytest.mark.slow
@pytest.mark.parametrize("weights", ["int4", "int3"])
def test_a_network_gets_no_worse(digits: Path, weights: str) -> None:
    """On images that the weights were not rounded for; what comes of it is within a tenth of a decibel."""
    data, unseen, options = DIGITS / "calib.npz", DIGITS / "eval.npz", {**WEIGHTS_ONLY, "weights": weights}
    plain, sequential = (
        ptq.quantize(digits, data, eval_data=unseen, sequential=each, **options).report.accuracy.sqnr_db
        for each in (False, True)
    )
    assert sequential > plain - 0.1


def test_a_second_run_finds_all_and_another_format_what_is_before_it(
    monkeypatch: pytest.MonkeyPatch, chain: onnx.ModelProto
) -> None:
    ran, calibrate = list[list[str]](), findings.calibrate

    def counted(block: Model, sites: Any, *more: Any, **named: Any) -> Statistics:
        ran.append([site.name for site in sites])
        return calibrate(block, sites, *more, **named)

    monkeypatch.setattr(findings, "calibrate", counted)
    first = ptq.quantize(chain, samples((8,)), sequential=True, **WEIGHTS_ONLY)
    assert len(ran) == 3
    again = ptq.quantize(chain, samples((8,)), sequential=True, **WEIGHTS_ONLY)
    assert len(ran) == 3
    assert again.content == first.content
    ptq.quantize(chain, samples((8,)), sequential=True, **{**WEIGHTS_ONLY, "weights": "int4"})
    assert ran[3:] == ran[1:3]  # what the first layer sees does not depend on formats


def test_blocks_end_where_one_tensor_goes_on() -> None:
    """Skips that live long, such as of a U-Net, are taken along."""
    down = "".join(f"d{k} = MatMul (u{k}, w) u{k + 1} = Relu (d{k}) " for k in range(6))
    up = "".join(f"s{k} = Add (v{k}, u{6 - k}) e{k} = MatMul (s{k}, w) v{k + 1} = Relu (e{k}) " for k in range(6))
    inner = "h = MatMul (u6, w) g = Relu (h) q = MatMul (g, w) v0 = Add (q, u6) "
    net = graphs.model(
        f"u0 = Identity (x) {down}{inner}{up}y = Identity (v6)", "float[n, 4] x", "float[n, 4] y", {"w": (4, 4)}
    )
    graph = Model.of(capture(net, CaptureOptions(), None)).graph
    products = [str(node.name) for node in graph.graph if node.op_type == "MatMul"]
    blocks = cut(graph, [Look((), (name,)) for name in products], 1 << 30, finely=True)
    names = {look.nodes[0]: k for k, block in enumerate(blocks) for look in block.looks}
    made = [str(node.outputs[0].name) for node in graph.graph if node.op_type == "MatMul"]
    of = dict(zip(made, (names[name] for name in products), strict=True))
    assert of["h"] == of["q"]
    assert [of[name] for name in ("d0", "d1", "d2")] == [0, 1, 2]
    assert len({of[name] for name in ("e3", "e4", "e5")}) == 3
    assert max(map([*of.values()].count, of.values())) <= 8


@pytest.mark.parametrize(
    ("options", "data", "words"),
    [
        ({"points": 1}, False, r"--sequential needs calibration data; give --data"),
        (
            {},
            True,
            r"--sequential rounds a layer before the next has seen data, and how many bits '.*' gets",
        ),
        ({"method": "mixed"}, True, r"all layers; give --points or --tolerance, or a method of one size such as gptq"),
        ({"method": "rtn"}, True, r"--sequential: no layer is rounded by what it is given; leave it out, or"),
    ],
)
def test_what_cannot_be_is_refused(options: dict[str, Any], *, data: bool, words: str) -> None:
    model = Model.of(capture(graphs.residual(), CaptureOptions(), None))
    with pytest.raises(OptionError, match=words):
        Recipe.of({"sequential": True, **options}).plan(model.sites, has_data=data)


@pytest.mark.parametrize("options", [{"points": 2}, {"tolerance": 0.05}, {"method": "adaround"}, {"method": "gpfq"}])
def test_what_knows_its_size_goes_in_sequence(options: dict[str, Any]) -> None:
    result = ptq.quantize(graphs.gates(), samples((3, 8, 8)), sequential=True, **options)
    assert result.report.accuracy.sqnr_db > 10


def test_the_file_says_so(tmp_path: Path, ptq: Command, chain: onnx.ModelProto) -> None:
    model, data, output = tmp_path / "m.onnx", tmp_path / "d.npz", tmp_path / "q.onnx"
    onnx.save(chain, model)
    np.savez(data, **samples((8,)))
    assert ptq("quantize", model, "--data", data, "--method", "gptq", "--sequential", "-o", output).code == 0
    (told,) = (each.value for each in onnx.load(output).metadata_props if each.key == "ptq.manifest")
    assert json.loads(told)["options"]["sequential"] is True
