"""`--method auto`: the best of several recipes, found on the calibration data alone, and what it was chosen from."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import graphs
import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from small_network import samples, write_network

import ptq
from cli.main import commands
from ptq import presets
from ptq.errors import UnmetError
from ptq.lowering import TARGETS
from ptq.model import export as export_of
from ptq.pipeline import auto
from ptq.recipe import Recipe
from ptq.report import Trial, Trials, from_json, to_json

FEW = ("int8", "int8-weights", "w4a8", "int4-awq")
Images = dict[str, np.ndarray]


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four candidates are enough to choose from; one of them does not go with the digits network."""
    monkeypatch.setattr(presets, "CANDIDATES", {**presets.CANDIDATES, "cpu": FEW})


@pytest.fixture(scope="module")
def images(digits_npz: Path) -> Images:
    with np.load(digits_npz) as arrays:
        return {"image": arrays["image"][:32]}


@pytest.fixture(scope="module")
def digits_npz() -> Path:
    return Path(__file__).parents[1] / "examples" / "digits" / "calib.npz"


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("network") / "network.onnx"
    write_network(path)
    return path


@pytest.fixture(scope="module")
def noise() -> Images:
    return {"x": samples(32)}


def tried(trials: Trials | None) -> dict[str, Trial]:
    assert trials is not None
    return {trial.recipe: trial for trial in trials.tried}


def same(one: Trials, other: Trials) -> bool:
    """Whether all is equal but what a clock says."""
    return [dataclasses.replace(t, seconds=0, latency_ratio=None) for t in one.tried] == [
        dataclasses.replace(t, seconds=0, latency_ratio=None) for t in other.tried
    ]


def test_every_target_has_candidates_that_are_presets() -> None:
    assert set(presets.CANDIDATES) == set(TARGETS)
    for names in presets.CANDIDATES.values():
        assert set(names) <= set(presets.NAMES)
        assert len(set(names)) == len(names) > 1


@pytest.mark.slow
def test_a_module_is_exported_once_for_all_trials(monkeypatch: pytest.MonkeyPatch) -> None:
    exports = list[str]()
    export = export_of.export_module
    monkeypatch.setattr(export_of, "export_module", lambda *given: exports.append("") or export(*given))
    layers = torch.nn.Sequential(torch.nn.Linear(6, 16), torch.nn.ReLU(), torch.nn.Linear(16, 4)).eval()
    features = np.random.default_rng(0).standard_normal((16, 6)).astype(np.float32)
    report = ptq.quantize(layers, features, method="auto", max_drop=0.02).report
    assert report.trials is not None
    assert sum(trial.bytes is not None for trial in report.trials.tried) > 1
    assert len(exports) == 3  # to look at early, for the trials, and for what is taken


def test_the_smallest_file_that_keeps_to_the_drop(network: Path, noise: Images) -> None:
    report = ptq.quantize(network, noise, method="auto", max_drop=0.002).report
    found = tried(report.trials)
    assert set(found) == set(FEW)
    met = [trial for trial in found.values() if trial.met]
    assert {trial.recipe for trial in found.values() if not trial.met} == {"int4-awq"}
    assert report.trials is not None
    assert report.trials.taken == min(met, key=lambda trial: trial.bytes or 0).recipe == "w4a8"
    assert report.trials.measure == "1 - cosine"
    assert report.trials.samples == 16
    assert report.options == ptq.recipe.chosen("w4a8", {}).as_options()
    plain = ptq.quantize(network, noise, recipe="w4a8")
    assert plain.report.file.bytes == report.file.bytes
    assert plain.report.accuracy == report.accuracy


@pytest.mark.slow
@pytest.mark.measures_latency
def test_a_narrower_bound_takes_a_larger_file(digits: Path, images: Images) -> None:
    wide = tried(ptq.quantize(digits, images, method="auto").report.trials)
    small, exact = wide["w4a8"].drop, wide["int8"].drop
    assert small is not None
    assert exact is not None
    report = ptq.quantize(digits, images, method="auto", max_drop=(small + exact) / 2).report
    assert report.trials is not None
    assert report.trials.taken == "int8"  # int8-weights is as small, and slower
    assert tried(report.trials)["w4a8"].note == "loses too much"
    assert same(report.trials, dataclasses.replace(report.trials)) is True


def test_the_most_accurate_file_of_a_size(network: Path, noise: Images) -> None:
    whole = ptq.quantize(network, noise, method="auto", target_size="1x")
    assert whole.report.trials is not None
    assert whole.report.trials.taken == "int8-weights"
    assert whole.report.trials.max_drop is None
    limit = whole.report.file.bytes - 1
    made = ptq.quantize(network, noise, method="auto", target_size=f"{limit}B")
    assert len(made.content) <= limit
    assert made.report.trials is not None
    assert made.report.trials.target_bytes == limit
    met = [trial for trial in made.report.trials.tried if trial.met]
    assert made.report.trials.taken == min(met, key=lambda t: (max(t.drop or 0, 0), -(t.sqnr_db or 0))).recipe


@pytest.mark.slow
def test_a_file_that_grows_with_all_of_the_data_is_not_taken(
    digits: Path, images: Images, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Trials are told of a file that is a byte smaller than the one that comes out in the end."""
    real = auto._Comparison.trial

    def optimistic(self: Any, name: str, recipe: Recipe) -> Trial:
        made = real(self, name, recipe)
        return dataclasses.replace(made, bytes=(made.bytes or 0) - 1)

    sizes = tried(ptq.quantize(digits, images, method="auto", target_size="1x").report.trials)
    monkeypatch.setattr(auto._Comparison, "trial", optimistic)
    limit = (sizes["int8-weights"].bytes or 0) - 1
    made = ptq.quantize(digits, images, method="auto", target_size=f"{limit}B")
    assert made.report.trials is not None
    assert made.report.trials.taken == "w4a8"
    assert len(made.content) <= limit
    note = tried(made.report.trials)["int8-weights"].note
    assert note == f"{limit + 1:,} bytes when calibrated on all of the data"


@pytest.mark.slow
def test_nothing_meets_the_bounds(digits: Path, images: Images, tmp_path: Path) -> None:
    np.savez(tmp_path / "calib.npz", **images)
    command = ["quantize", digits, "--data", tmp_path / "calib.npz", "-o", tmp_path / "out.onnx", "--method", "auto"]
    words = list(map(str, [*command, "--max-drop", 1e-7, "--json", tmp_path / "report.json"]))
    run = CliRunner().invoke(commands, words)
    assert isinstance(run.exception, UnmetError)
    said = str(run.exception)
    assert "\n" not in said
    assert "none of 4 recipes has a drop of at most 1e-07; nearest is int8-weights with a drop of" in said
    assert sum(line.split()[:1] == [name] for name in FEW for line in run.output.splitlines()) == 4
    assert "taken    none" in run.output
    assert {path.name for path in tmp_path.iterdir()} == {"calib.npz"}
    words[words.index("1e-07")] = "1"
    run = CliRunner().invoke(commands, [*words, "--target-size", "1kB"])
    assert isinstance(run.exception, UnmetError)
    assert "a drop of at most 1 and a file of at most 1,000 bytes; nearest is w4a8" in str(run.exception)
    assert {path.name for path in tmp_path.iterdir()} == {"calib.npz"}


def test_what_refuses_is_left_out(tmp_path: Path) -> None:
    onnx.save(
        graphs.model("y = MatMul (x, w)", "float[n, 64] x", "float[n, 8] y", {"w": (64, 8)}), tmp_path / "net.onnx"
    )
    alike = np.sign(np.random.default_rng(0).standard_normal((16, 64))).astype(np.float32)
    trials = tried(ptq.quantize(tmp_path / "net.onnx", {"x": alike}, method="auto", max_drop=1.0).report.trials)
    assert {name for name, trial in trials.items() if trial.bytes is None} == {"int4-awq"}
    assert (trials["int4-awq"].note or "").startswith("--step awq finds no input whose channels differ")


@pytest.mark.slow
def test_what_refuses_is_shown(digits: Path, images: Images, tmp_path: Path) -> None:
    np.savez(tmp_path / "calib.npz", **images)
    files = {"--data": tmp_path / "calib.npz", "-o": tmp_path / "out.onnx", "--json": tmp_path / "report.json"}
    command = ["quantize", digits, "--method", "auto", *(each for pair in files.items() for each in pair)]
    run = CliRunner().invoke(commands, list(map(str, command)), catch_exceptions=False)
    assert run.exit_code == 0
    assert "refused  int4-awq: --step awq finds no input whose channels differ" in run.output
    assert "taken    w4a8, among the smallest with a drop of at most 0.02" in run.output
    said = json.loads((tmp_path / "report.json").read_text())
    awq = next(trial for trial in said["trials"]["tried"] if trial["recipe"] == "int4-awq")
    assert awq["bytes"] is None
    assert awq["note"].startswith("--step awq finds no input")
    assert said["file"]["bytes"] == (tmp_path / "out.onnx").stat().st_size
    report = from_json((tmp_path / "report.json").read_text())
    assert report.trials is not None
    assert json.loads(to_json(report)) == said


@pytest.mark.slow
def test_the_data_for_evaluation_decide_nothing(digits: Path, images: Images) -> None:
    """They are looked at before the search, to find what is wrong with them, and after it."""
    walks: list[str] = []
    comparing = auto._Comparison.trial

    def unseen() -> Iterator[Mapping[str, np.ndarray]]:
        walks.append("unseen")
        yield {**images, "labels": np.zeros(len(images["image"]), np.int64)}

    def counted(self: Any, name: str, recipe: Recipe) -> Trial:
        assert self.about.evaluation is not unseen
        walks.append("trial")
        try:
            return comparing(self, name, recipe)
        finally:
            walks.append("done")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(auto._Comparison, "trial", counted)
        report = ptq.quantize(digits, images, eval_data=unseen, method="auto").report
    first, last = walks.index("trial"), len(walks) - walks[::-1].index("done")
    assert walks[first:last] == ["trial", "done"] * 4
    assert "unseen" in walks[last:]
    assert report.accuracy is not None
    assert report.accuracy.labelled == 32
    plain = ptq.quantize(digits, images, method="auto").report
    assert report.trials is not None
    assert plain.trials is not None
    assert same(report.trials, plain.trials)
    assert report.trials.taken == plain.trials.taken


@pytest.mark.slow
def test_labels_are_what_counts_where_there_are_any(digits: Path, images: Images) -> None:
    labels = np.arange(32) % 10
    trials = ptq.quantize(digits, {**images, "labels": labels}, method="auto", max_drop=1.0).report.trials
    assert trials is not None
    assert trials.measure == "top-1"
    drops = [trial.drop for trial in trials.tried if trial.drop is not None]
    assert all(16 * drop == pytest.approx(round(16 * drop)) for drop in drops)


def test_other_targets(network: Path, noise: Images) -> None:
    report = ptq.quantize(network, noise, method="auto", target="tensorrt").report
    found = tried(report.trials)
    assert set(found) == {"int8", "fp8"}
    assert all(trial.met and trial.latency_ratio is None for trial in found.values())
    assert report.options["target"] == "tensorrt"
