"""What a site does to the output, and on which samples that is measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx_ir as ir
import pytest

import ptq
from calibration.dataset import fit
from calibration.sources import open_data
from ptq.errors import ModelError
from ptq.lowering import find_activations
from ptq.model.graph import Model
from ptq.model.heads import with_narrow_heads
from ptq.pipeline import importance, together
from ptq.pipeline.calibrate import Statistics, calibrate
from ptq.ranks import Ranks
from ptq.sensitivity import Change, samples_needed, token_positions
from ptq.sensitivity import output_effects as effects_of_own


@pytest.fixture(scope="module")
def model() -> Model:
    return Model.of(ir.from_proto(graphs.residual()))


def feeds(model: Model, count: int, seed: int = 0) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(seed)
    shapes = {spec.name: [n if isinstance(n, int) else count for n in spec.shape or ()] for spec in model.inputs}
    return {name: generator.normal(size=(count, *shape[1:])).astype(np.float32) for name, shape in shapes.items()}


def output_effects(
    model: Model, changes: list[tuple[str, Mapping[str, np.ndarray]]], batches: list[dict[str, np.ndarray]]
) -> dict[str, float]:
    own = [name for name, _ in changes]
    return dict(effects_of_own(model, [change(*each) for each in changes], own, batches))


def change(name: str, arrays: Mapping[str, np.ndarray]) -> Change:
    return Change(name, list(arrays), lambda: arrays)


def scaled(model: Model, site: int, factor: float) -> tuple[str, Mapping[str, np.ndarray]]:
    found = model.sites[site]
    return found.name, {found.weight: model.initializer(found.weight) * np.float32(factor)}


def test_the_effect_is_error_power_over_power(model: Model) -> None:
    name, arrays = scaled(model, 1, 0.9)
    batches = [feeds(model, 2, seed) for seed in (0, 1)]
    effect = output_effects(model, [(name, arrays)], batches)[name]
    changed = model.with_initializers(arrays)
    good, bad = (np.concatenate([each.session().run(b)[0] for b in batches]).astype(float) for each in (model, changed))
    assert effect == pytest.approx(((bad - good) ** 2).sum() / (good**2).sum(), rel=1e-4)


def test_nothing_changed_is_no_effect_and_more_is_more(model: Model) -> None:
    changes = [("none", {}), ("little", scaled(model, 0, 0.99)[1]), ("much", scaled(model, 0, 0.5)[1])]
    effects = output_effects(model, changes, [feeds(model, 2)])
    assert effects["none"] == 0 < effects["little"] < effects["much"]


def test_parts_of_the_sites_are_measured_as_all_are_to_the_last_bit(
    model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays, made = dict(scaled(model, site, 0.9) for site in range(len(model.sites))), list[str]()

    def noted(name: str) -> Change:
        return Change(name, list(arrays[name]), lambda: made.append(name) or arrays[name])

    batches = [feeds(model, 2, seed) for seed in (0, 1)]
    everything = output_effects(model, [*arrays.items()], batches)
    found = dict[str, float]()
    for rank in range(2):
        monkeypatch.setattr("ptq.ranks._JOINED", [Ranks(rank, 2)])
        own = together.dealt({name: float(len(arrays) - place) for place, name in enumerate(arrays)})
        part = dict(effects_of_own(model, map(noted, arrays), own, batches))
        assert part.keys() == own < arrays.keys()
        found |= part
    assert sorted(made) == sorted(arrays)
    assert found == everything


def test_a_run_that_was_killed_measures_only_what_is_left(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    network, measured = graphs.residual(), list[str]()
    samples = feeds(Model.of(ir.from_proto(network)), 12)

    def run(cache: str, most: int) -> bytes:
        def noted(*given: Any) -> Iterator[tuple[str, float]]:
            for found in effects_of_own(*given):
                if len(measured) == most:
                    raise KeyboardInterrupt
                measured.append(found[0])
                yield found

        monkeypatch.setattr(importance, "output_effects", noted)
        monkeypatch.setenv("PTQ_CACHE", str(tmp_path / cache))
        return ptq.quantize(network, samples, bits=5.5).content

    with pytest.raises(KeyboardInterrupt):
        run("one", 2)
    resumed = run("one", 9)
    once = [*measured]
    assert len(once) == len({*once}) > 2
    assert run("one", 9) == resumed
    assert measured == once
    assert run("other", 99) == resumed


def test_outputs_that_are_not_finite_are_refused(model: Model) -> None:
    wrong = {name: np.full_like(array, np.nan) for name, array in feeds(model, 1).items()}
    with pytest.raises(ModelError, match="not finite; check both"):
        output_effects(model, [], [wrong])


@pytest.mark.parametrize(
    ("sites", "samples", "expected"),
    [(50, None, 32), (50, 65, 32), (50, 20, 10), (50, 3, 1), (50, 1, 1), (100, None, 20), (5000, 1000, 4), (0, 9, 4)],
)
def test_half_of_the_samples_are_left_to_round_the_weights_for(sites: int, samples: int | None, expected: int) -> None:
    assert samples_needed(sites, samples) == expected


@pytest.mark.parametrize(("positions", "expected"), [(1, 9), (64, 8), (128, 4), (200, 3), (256, 2), (100_000, 2)])
def test_many_positions_need_few_samples(positions: int, expected: int) -> None:
    assert samples_needed(211, None, positions) == expected


def test_positions_are_counted_of_tokens_only() -> None:
    decoder = graphs.model("e = Gather (t, ids) y = MatMul (e, w)", "int64[n, s] ids", "float[n, s, 7] y",
                           {"t": (9, 5), "w": (5, 7)})  # fmt: skip
    ids = {"ids": np.zeros((1, 12), np.int64)}
    assert token_positions(Model.of(ir.from_proto(decoder)), ids) == 12
    assert token_positions(Model.of(ir.from_proto(graphs.attention())), ids) == 1  # one decision a sample
    images = Model.of(ir.from_proto(graphs.residual()))
    assert token_positions(images, feeds(images, 1)) == 1


def moments(model: Model, batches: list[dict[str, np.ndarray]], reserved: int) -> Statistics:
    observed = find_activations(model.graph.graph, {use.node for site in model.sites for use in site.uses}).observed
    data = fit(open_data(batches), model.inputs)
    return calibrate(model, model.sites, observed, "minmax", data.batches(4), reserved=reserved)


def test_moments_of_all_samples_and_of_all_but_the_first(model: Model) -> None:
    batches = [feeds(model, 4, seed) for seed in range(3)]
    whole, rest = moments(model, batches, reserved=5), moments(model, batches[2:], reserved=0)
    everything = moments(model, batches, reserved=12)
    assert everything.apart == {}
    for site in model.sites:
        assert whole.apart[site.name].count == rest.moments[site.name].count == whole.moments[site.name].count / 3
        np.testing.assert_allclose(whole.apart[site.name].gram, rest.moments[site.name].gram, rtol=1e-6)
        np.testing.assert_allclose(whole.moments[site.name].gram, everything.moments[site.name].gram, rtol=1e-6)


LANGUAGE = "e = Gather (t, ids) a = MatMul (e, v) h = Relu (a) y = MatMul (h, w)"
TABLES = {"t": (9, 5), "v": (5, 6), "w": (6, 40)}


@pytest.mark.parametrize(
    ("nodes", "outputs", "narrow"),
    [
        (LANGUAGE, "float[n, s, 40] y", True),
        (f"{LANGUAGE} z = MatMul (e, u)", "float[n, s, 40] y, float[n, s, 3] z", True),
        (f"{LANGUAGE} z = Cast <to = 11> (y)", "double[n, s, 40] z", True),
        (f"{LANGUAGE} z = Cast <to = 11> (y)", "float[n, s, 40] y, double[n, s, 40] z", False),
        (f"{LANGUAGE} z = Tanh (y)", "float[n, s, 40] y, float[n, s, 40] z", False),
        (f"{LANGUAGE} q = MatMul (a, w) z = Tanh (q)", "float[n, s, 40] y, float[n, s, 40] z", False),
    ],
)
def test_wide_heads_are_narrowed_and_effects_are_the_same(nodes: str, outputs: str, narrow: bool) -> None:
    proto = graphs.model(nodes, "int64[n, s] ids", outputs, TABLES | ({"u": (5, 3)} if "u)" in nodes else {}))
    model = Model.of(ir.from_proto(proto))
    batches = [{"ids": np.random.default_rng(seed).integers(0, 9, (2, 7))} for seed in (0, 1)]
    shapes = [each.shape(each.outputs[0]) for each in (model, with_narrow_heads(model)[0])]
    assert shapes[0] == (None, None, 40)
    assert (shapes[1] is None) is narrow
    changes = [scaled(model, site, 0.9) for site in range(len(model.sites))]
    effects = output_effects(model, changes, batches)
    session = model.session()
    power = sum((out.astype(float) ** 2).sum() for each in batches for out in session.run(each))
    for name, arrays in changes:
        other = model.with_initializers(arrays).session()
        pairs = ((a, b) for each in batches for a, b in zip(session.run(each), other.run(each), strict=True))
        assert effects[name] == pytest.approx(
            sum(((a - b).astype(float) ** 2).sum() for a, b in pairs) / power, rel=1e-4
        )
