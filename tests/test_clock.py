"""Layers stay in float where a bound on the time allows: what is chosen from times, and whole runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx_ir as ir
import pytest
import torch
from click.testing import CliRunner

import ptq
from cli.main import commands
from ptq import allocation, scheme
from ptq.allocation import Speed
from ptq.audit.profile import Profile, profiles
from ptq.errors import OptionError
from ptq.ladder import Ladder
from ptq.lowering import Execution, SiteLowering, find_activations, lower, observable
from ptq.method import Request
from ptq.methods.mixed import Mixed
from ptq.model.graph import Model
from ptq.model.save import serialized
from ptq.pipeline.clock import _in_float
from ptq.solve import Curvature

pytestmark = pytest.mark.measures_latency

NAMES = ("a", "b", "c")


def ladders() -> dict[str, Ladder]:
    made = Mixed.of(Request(scheme.parse("int4", None, integer=True), has_data=False))
    weights = {name: torch.randn(1, 16, 64, generator=torch.Generator().manual_seed(k)) for k, name in enumerate(NAMES)}
    return {name: made.ladder(weight, Curvature.unknown(1, 64)) for name, weight in weights.items()}


def chosen(speed: Speed, bits: float | None = None, effects: tuple[float, ...] = (1.0, 2.0, 4.0)) -> dict[str, int]:
    """The rung of each, int2 to int8; those in float have none."""
    found = ladders()
    costs = allocation.layer_costs(found, dict(zip(NAMES, effects, strict=True)))
    costs = {name: np.append(cost, 0.0) for name, cost in costs.items()}
    return {name: int(rung[0]) for name, rung in allocation.by_layer(found, costs, bits, speed)[0].items()}


def speed(most: float, integers: float = 1.0, floats: float = 3.0) -> Speed:
    return Speed(dict.fromkeys(NAMES, integers), dict.fromkeys(NAMES, floats), most)


@pytest.mark.parametrize(("most", "kept"), [(3.0, ""), (4.9, ""), (5.0, "c"), (7.0, "bc"), (9.0, "abc")])
def test_those_that_matter_most_stay_in_float_as_far_as_time_allows(most: float, kept: str) -> None:
    found = chosen(speed(most))
    assert set(NAMES) - set(found) == set(kept)
    assert set(found.values()) <= {6}  # int8, as size is free


def test_what_is_faster_in_float_stays_so() -> None:
    assert chosen(speed(3.0, integers=2.0, floats=1.0)) == {}


def test_both_budgets_hold() -> None:
    found = chosen(speed(100.0), bits=16.0)  # one of three in float are 10.7 bits
    assert len(found) == 2
    with pytest.raises(OptionError, match=r"no choice of formats has bits .* seconds at most 2 \(at least 3\)"):
        chosen(speed(2.0), bits=16.0)


def test_what_is_between_float_and_integers_is_counted() -> None:
    floats = Profile({"a": 3.0, "b": 5.0}, 0.0, {"a": 100, "b": 300})
    integers, mixed = Profile({"a": 1.0, "b": 1.0}, 0.5, {}), Profile({"a": 3.0, "b": 1.0}, 0.7, {})
    found = _in_float(floats, integers, mixed, ["a", "b"], ["b"])
    assert found == pytest.approx({"a": 3.2, "b": 5.6})


def test_a_profile_knows_sites_and_what_they_move(tmp_path: Path) -> None:
    model = Model.of(ir.from_proto(graphs.residual()))
    sites = {site.name: SiteLowering(Execution.FLOAT) for site in model.sites}
    path = tmp_path / "float.onnx"
    path.write_bytes(serialized(lower(model, sites, {})))
    (found,) = profiles([path], {"x": np.ones((1, 3, 12, 12), np.float32)})
    assert set(found.sites) == set(sites)
    assert all(seconds > 0 for seconds in found.sites.values())
    assert found.moved[model.sites[-1].name] == 4 * (16 + 5)
    assert found.whole > sum(found.sites.values()) > 0


@pytest.mark.parametrize("network", [graphs.residual, graphs.gates, graphs.attention])
def test_whatever_part_is_quantized_its_ranges_are_known(network: Any) -> None:
    model = Model.of(ir.from_proto(network()))
    nodes = [use.node for site in model.sites for use in site.products]
    known = set(observable(model.graph.graph, set(nodes)))
    for bits in range(1 << min(len(nodes), 10)):
        part = {node for k, node in enumerate(nodes) if bits >> k & 1}
        assert known.issuperset(find_activations(model.graph.graph, part).observed)


def run(digits: Path, images: dict[str, np.ndarray], **options: Any) -> Any:
    return ptq.quantize(digits, images, method="mixed", rounding="nearest", **options)


def test_a_network_with_time_to_spare_has_layers_in_float(digits: Path, digit_images: dict[str, np.ndarray]) -> None:
    plain = run(digits, digit_images, bits=8)
    found = run(digits, digit_images, max_latency=0.8).report
    kept = [layer for layer in found.layers if layer.execution == "float"]
    assert 0 < len(kept) < len(found.layers)
    assert all("--max-latency" in (layer.note or "") for layer in kept)
    assert found.accuracy.sqnr_db > plain.report.accuracy.sqnr_db


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"max_latency": 0.001, "rounding": "nearest"}, r"the fastest that was found takes 0\.\d+ of FP32's time"),
        ({"max_latency": 50.0, "rounding": "nearest"}, "leaves every layer in float; give less"),
        ({"max_latency": -1.0}, "is no part of FP32's time"),
        ({"max_latency": 0.5, "method": "rtn"}, "--max-latency is read by --method mixed, not by --method rtn"),
    ],
)
def test_what_cannot_be_held_is_refused(
    options: dict[str, Any], said: str, digits: Path, digit_images: dict[str, np.ndarray]
) -> None:
    with pytest.raises(OptionError, match=said):
        ptq.quantize(digits, digit_images, **{"method": "mixed", **options})


def test_it_needs_data(digits: Path) -> None:
    done = CliRunner().invoke(commands, ["quantize", str(digits), "--method", "mixed", "--max-latency", "0.5"])
    assert "--max-latency 0.5 needs data to run; give --data" in str(done.exception)
