"""Bias correction: the means of float."""

from __future__ import annotations

from collections.abc import Mapping

import graphs
import numpy as np
import onnx_ir as ir
import pytest
import torch
import torch.nn.functional as F
from step_networks import NETWORKS, feeds, quantized, steps, uneven

import ptq
from ptq.errors import OptionError
from ptq.model.functions import Function, behind, same
from ptq.model.graph import Model
from ptq.model.sites import Site
from ptq.steps import bias_correction


@pytest.mark.parametrize("network", NETWORKS)
def test_corrected_means_are_those_of_float(network: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind what reads each output, on the data, where all positions of images are looked at."""
    monkeypatch.setattr(bias_correction, "_POSITIONS", 1024)
    proto = NETWORKS[network]
    model, data = Model.of(ir.from_proto(proto)), feeds(proto)
    made = steps(model, data, "bias-correction")
    weights = quantized(model, made)
    step = dict(made.plan.steps)["bias-correction"]
    shifts, _ = step.shifts(model, made.setting(model, (), lambda: None), weights)
    arrays = {site.weight: site.tensor(weights[site.name].dequantize().numpy()) for site in model.sites}
    plain = model.with_initializers(arrays)
    for site in model.sites:
        if site.name in shifts:
            bias = str(site.uses[0].bias)
            old = model.initializer(bias)
            arrays[bias] = old + shifts[site.name].reshape(old.shape)
    corrected = model.with_initializers(arrays)
    chosen = [site for site in model.sites if site.name in shifts]
    float_, before, after = (means(each, chosen, data) for each in (model, plain, corrected))
    for name in shifts:
        wrong = np.abs(before[name] - float_[name]).max()
        assert np.abs(after[name] - float_[name]).max() < max(0.05 * wrong, 1e-3)


def means(model: Model, sites: list[Site], data: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    found = {}
    for site in sites:
        use = site.uses[0]
        functions = behind(model, use)
        values = torch.from_numpy(model.session([use.output]).run(data, [use.output])[0])
        if site.op == "MatMul":
            values += torch.from_numpy(model.initializer(str(use.bias)).copy())
        values = functions(values.movedim(1 if use.geometry else -1, 0).flatten(1))
        found[site.name] = values.double().mean(1).numpy()
    return found


def test_bias_correction_needs_a_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    """What has none is refused before it is quantized."""
    monkeypatch.setattr("ptq.pipeline.build.quantize_weights", None)
    proto = graphs.with_arrays("y = MatMul (x, w)", "float[n, 4] x", "float[n, 8] y", {"w": uneven(4, 8)})
    with pytest.raises(OptionError, match=r"no quantized layer with a bias of its own; leave it out$"):
        ptq.quantize(proto, {"x": uneven(8, 4)}, method="rtn", steps="bias-correction")


def test_matching_a_mean_behind_a_function() -> None:
    """Exactly where there is none, and through a Relu; not at all where nothing is ever active."""
    values = torch.randn(4, 4000, generator=torch.Generator().manual_seed(3))
    values[2] -= 20
    target = torch.relu(values + 0.5).double().mean(1)
    found = bias_correction.matching(values, torch.relu, target)
    np.testing.assert_allclose(found[[0, 1, 3]], 0.5, atol=0.02)
    assert float(found[2]) == 0
    target = (values - 1.5).double().mean(1)
    np.testing.assert_allclose(bias_correction.matching(values, same, target), -1.5, atol=1e-3)


@pytest.mark.parametrize("function", [F.gelu, F.silu, F.hardswish, torch.relu, torch.tanh], ids=lambda f: f.__name__)
@pytest.mark.parametrize("centre", [-4.0, -2.0, -1.2, -0.7, 0.0, 2.0])
@pytest.mark.parametrize("off", [-0.1, 0.001, 0.1])
def test_a_mean_is_matched_by_no_more_than_it_is_off(function: Function, centre: float, off: float) -> None:
    """GELU and its like fall where they are far below 0, so that a step by the sign of what is missing leads astray."""
    values = 0.3 * torch.randn(1, 4000, generator=torch.Generator().manual_seed(3)) + centre
    target = function(values + off).double().mean(1)
    shift = bias_correction.matching(values, function, target)
    assert shift.abs().max() < 1.5 * abs(off)
    before, after = (abs(float((function(x).double().mean(1) - target)[0])) for x in (values, values + shift[:, None]))
    assert after <= max(0.02 * before, 1e-4) or (after <= before and float(shift.abs()) < abs(off))
