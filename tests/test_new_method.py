"""A method in one new file: that of examples/new_method, as its page shows it, in a copy of the package."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command import Run
from copied_package import Page, copy_package, run

from ptq.errors import OptionError
from ptq.recipe import Recipe

PAGE = Page("new_method")
QUANTIZE = [*PAGE.commands, PAGE.commands[0].replace("--method nudge", "--method rtn")]
QUANTIZED = [f"{command} --json {number}.json --overwrite" for number, command in enumerate(QUANTIZE)]
REFUSED = {
    f"quantize model.onnx --method nudge {options} -o refused.onnx": words
    for options, words in (
        ("--weights int4", "--method nudge needs calibration data; give --data"),
        ("--weights nf4 --data calib.npz", "nudge moves integers with a scale a channel, not nf4"),
        ("--weights int4 --bits 4.5 --data calib.npz", "--bits is read by"),
    )
}


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package and the one file more, a model and data."""
    folder = tmp_path_factory.mktemp("copied")
    images = np.random.default_rng(3).normal(size=(16, 3, 8, 8))
    copy_package(folder, images.cumsum(2).cumsum(3) / 8)  # neighbours are alike, as in photos
    (folder / "ptq" / "methods" / "nudge.py").write_text(PAGE.snippet, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def runs(extended: Path) -> dict[str, Run]:
    return run(extended, [*QUANTIZED, *REFUSED])


def test_the_page_shows_the_file() -> None:
    assert (PAGE.folder / "nudge.py").read_text(encoding="utf-8") == PAGE.snippet
    assert len(PAGE.commands) == 2


def test_without_the_file_it_is_unknown() -> None:
    with pytest.raises(OptionError, match="unknown --method 'nudge'"):
        Recipe.of({"method": "nudge"})


def test_models_are_quantized_by_it(extended: Path, runs: dict[str, Run]) -> None:
    """It is better than rounding to nearest where it is what it says it is: at the outputs of the layers."""
    found = []
    for number, command in enumerate(QUANTIZED):
        assert (runs[command].code, runs[command].err) == (0, "")
        report = json.loads((extended / f"{number}.json").read_text())
        assert all(layer["integer"] for layer in report["layers"])
        found.append(report["accuracy"]["sqnr_db"])
    nudged, corrected, nearest = found
    assert min(nudged, corrected) > nearest + 1


@pytest.mark.parametrize("command", REFUSED)
def test_what_it_does_not_do_is_said(extended: Path, runs: dict[str, Run], command: str) -> None:
    runs[command].fails(REFUSED[command], code=2)
    assert not (extended / "refused.onnx").exists()
