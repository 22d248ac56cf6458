"""What holds for every step: the same function before the method, other biases after it."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
from step_networks import NETWORKS, feeds, quantized, steps

import ptq
from ptq.errors import OptionError
from ptq.model.graph import Model
from ptq.model.session import Session
from ptq.pipeline.steps import Steps
from ptq.recipe import STEPS, Recipe

WHEN = {"before": "change", "after": "shifts"}


@pytest.mark.parametrize("name", STEPS)
def test_a_step_says_what_it_is(name: str) -> None:
    step = STEPS[name].STEP
    assert dataclasses.is_dataclass(step)
    assert hasattr(step, WHEN[step.when])
    assert isinstance(step.needs_data, bool)
    assert isinstance(step.smooths, bool)
    assert {field.name for field in dataclasses.fields(Recipe)} >= step.OPTIONS
    assert step.of(dict.fromkeys(step.OPTIONS)) == step.of({}) == step()


@pytest.mark.parametrize("name", [name for name in STEPS if STEPS[name].STEP.when == "before"])
def test_a_step_before_keeps_the_function(name: str) -> None:
    """Wherever it has something to do, and in one network at least it has."""
    changed = {network: changes(name, network) for network in NETWORKS}
    assert any(changed.values())


def changes(name: str, network: str) -> bool:
    """Whether a step changes a network, which is to compute the same then."""
    proto = NETWORKS[network]
    model, data = Model.of(ir.from_proto(proto)), feeds(proto)
    before = model.graph.graph.clone()
    made = steps(model, data, name)
    try:
        changed = made.before(model)
    except OptionError as error:
        if re.fullmatch(f"--step {name} finds no .+; leave it out", str(error)):
            return False
        raise
    expected, got = (each.session().run(data)[0] for each in (model, changed))
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
    assert [site.name for site in changed.sites] == [site.name for site in model.sites]
    assert any(not np.array_equal(model.matrix(s), changed.matrix(s)) for s in model.sites)
    assert [note.split(":")[0] for note in made.notes] == [name]
    for key, value in before.initializers.items():
        assert np.array_equal(value.const_value.numpy(), model.initializer(str(key)))
    return True


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("name", [name for name in STEPS if STEPS[name].STEP.when == "after"])
def test_a_step_after_shifts_biases(name: str, network: str) -> None:
    proto = NETWORKS[network]
    model, data = Model.of(ir.from_proto(proto)), feeds(proto)
    made = steps(model, data, name)
    step = dict(made.plan.steps)[name]
    shifts, note = step.shifts(model, made.setting(model, (), lambda: None), quantized(model, made))
    own = {site.name: site.rows for site in model.sites if model.has_own_bias(site)}
    assert {site: shift.shape for site, shift in shifts.items()} == {site: (rows,) for site, rows in own.items()}
    assert all(np.isfinite(shift).all() for shift in shifts.values())
    assert note.startswith(f"{name}: ")


@pytest.mark.parametrize("name", [name for name in STEPS if STEPS[name].STEP.needs_data])
def test_what_a_step_found_is_kept_of_a_run_that_was_killed(
    name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    proto, data = NETWORKS["tokens"], feeds(NETWORKS["tokens"])

    def run(cache: str) -> bytes:
        monkeypatch.setenv("PTQ_CACHE", str(tmp_path / cache))
        return ptq.quantize(proto, data, method="rtn", weights="int8", steps=name).content

    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    def ran(*_: object, **__: object) -> None:
        raise AssertionError("the data are run once more")

    with monkeypatch.context() as patch:
        place, what = ("findings", "_given") if STEPS[name].STEP.when == "before" else ("build", "lower")
        patch.setattr(f"ptq.pipeline.{place}.{what}", stopped)
        with pytest.raises(KeyboardInterrupt):
            run("killed")
    with monkeypatch.context() as patch:
        for what in ("_batches", "_own"):
            patch.setattr(Steps, what, ran)
        resumed = run("killed")
    assert run("fresh") == resumed


@pytest.mark.parametrize("name", [name for name in STEPS if STEPS[name].STEP.needs_data])
def test_a_step_asks_for_the_data_it_needs(name: str) -> None:
    with pytest.raises(OptionError, match=f"^--step {name} needs calibration data; give --data$"):
        ptq.quantize(NETWORKS["tokens"], method="rtn", steps=name)


@pytest.mark.parametrize("name", STEPS)
def test_a_step_runs_with_a_job(name: str) -> None:
    network = "separable" if name == "cross-layer-equalization" else "tokens"
    proto = NETWORKS[network]
    result = ptq.quantize(proto, feeds(proto), method="rtn", weights="int8", steps=name)
    assert any(note.startswith(f"{name}: ") for note in result.report.notes)
    assert name in result.report.stages
    expected, got = (Session(each).run(feeds(proto))[0] for each in (proto.SerializeToString(), result.content))
    assert 10 * np.log10((expected**2).sum() / ((expected - got) ** 2).sum()) > 20
