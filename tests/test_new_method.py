"""A method in one new file: that of examples/new_method, as its page shows it, in a copy of the package."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from copied_package import Page, copy_package, run
from small_folder import RNG

PAGE = Page("new_method")
SLOW = pytest.mark.slow


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package and the one file more, a model and data; without the file the method is unknown."""
    folder = tmp_path_factory.mktemp("copied")
    copy_package(folder, RNG.normal(size=(16, 3, 8, 8)).cumsum(2).cumsum(3) / 8)  # neighbours are alike, as in photos
    before = run(folder, *PAGE.commands[0].split())
    assert before.returncode == 2
    assert "unknown --method 'nudge'" in before.stderr
    (folder / "ptq" / "methods" / "nudge.py").write_text(PAGE.snippet, encoding="utf-8")
    return folder


def test_the_page_shows_the_file() -> None:
    assert (PAGE.folder / "nudge.py").read_text(encoding="utf-8") == PAGE.snippet
    assert len(PAGE.commands) == 2


def test_models_are_quantized_by_it(extended: Path) -> None:
    """It is better than rounding to nearest where it is what it says it is: at the outputs of the layers."""
    found = []
    plain = PAGE.commands[0].replace("--method nudge", "--method rtn")
    for command in (*PAGE.commands, plain):
        output = run(extended, *command.split(), "--json", "report.json", "--overwrite")
        assert (output.returncode, output.stderr) == (0, "")
        report = json.loads((extended / "report.json").read_text())
        assert all(layer["integer"] for layer in report["layers"])
        found.append(report["accuracy"]["sqnr_db"])
    nudged, corrected, nearest = found
    assert min(nudged, corrected) > nearest + 1


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--weights int4", "--method nudge needs calibration data; give --data"),
        pytest.param(
            "--weights nf4 --data calib.npz", "nudge moves integers with a scale a channel, not nf4", marks=SLOW
        ),
        pytest.param("--weights int4 --bits 4.5 --data calib.npz", "--bits is read by", marks=SLOW),
    ],
)
def test_what_it_does_not_do_is_said(extended: Path, options: str, words: str) -> None:
    found = run(extended, "quantize", "model.onnx", "--method", "nudge", *options.split(), "-o", "refused.onnx")
    assert found.returncode == 2
    assert words in found.stderr
    assert not (extended / "refused.onnx").exists()
