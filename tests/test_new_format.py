"""A format in one new file: that of examples/new_format, as its page shows it, in a copy of the package."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from copied_package import Page, copy_package, run
from small_folder import RNG

from ptq.errors import OptionError
from ptq.formats import Format, _by_name, get
from ptq.formats.codebook import CodebookFormat

PAGE = Page("new_format")


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package, a model and data."""
    folder = tmp_path_factory.mktemp("copied")
    copy_package(folder, RNG.normal(size=(16, 3, 8, 8)))
    return folder


@pytest.fixture(scope="module")
def extended(copied: Path) -> Path:
    """The same with the one file; without it the format is unknown."""
    before = run(copied, "formats", "show", "fp5_e2m2")
    assert before.returncode == 2
    assert "unknown format 'fp5_e2m2'" in before.stderr
    (copied / "ptq" / "formats" / "mine.py").write_text(PAGE.snippet, encoding="utf-8")
    return copied


def test_the_page_shows_the_file() -> None:
    assert (PAGE.folder / "mine.py").read_text(encoding="utf-8") == PAGE.snippet


def test_the_commands_are_found() -> None:
    kinds = [" ".join(command.split()[:2]) for command in PAGE.commands]
    assert kinds == ["formats show"] * 2 + ["quantize model.onnx"] * 4


@pytest.mark.parametrize("command", [each for each in PAGE.commands if each.startswith("formats")])
def test_it_is_shown(extended: Path, command: str) -> None:
    found = run(extended, *command.split())
    assert (found.returncode, found.stderr) == (0, "")
    assert len(re.findall(r"\b0x[0-9a-f]+ ", found.stdout)) == (31 if "fp5" in command else 8)


@pytest.mark.parametrize("command", [each for each in PAGE.commands if each.startswith("quantize")])
def test_models_are_quantized_to_it(extended: Path, command: str) -> None:
    words = command.split()
    weights, output = words[words.index("--weights") + 1], extended / words[-1]
    found = run(extended, *words, "--json", "report.json", "--overwrite")
    assert (found.returncode, found.stderr) == (0, "")
    report = json.loads((extended / "report.json").read_text())
    assert output.stat().st_size == report["file"]["bytes"]
    layers = report["layers"]
    assert all(layer["format"].split("/")[0] == weights for layer in layers)
    assert min(layer["weight_sqnr_db"] for layer in layers) > (20 if weights == "fp5_e2m2" else 12)
    assert {layer["execution"] for layer in layers} == {"static" if weights == "fp5_e2m2" else "weights"}
    if "--data" in words:
        assert report["accuracy"]["sqnr_db"] > (20 if weights == "fp5_e2m2" else 10)


@pytest.mark.parametrize(
    ("book", "words"),
    [
        ((0.0, 1.0, 0.5), "the numbers of the format mine are not ascending; sort them, each once"),
        ((-1.0, 0.0, 0.0, 1.0), "not ascending"),
        ((-1.0, 0.0, float("nan")), "not ascending"),
        ((-2.0, -1.0, 0.0, 1.0, 2.0), "the format mine has 5 numbers, 2 bits hold 2 to 4; change one of the two"),
        ((0.0,), "has 1 numbers"),
    ],
)
def test_a_list_that_is_no_table(book: tuple[float, ...], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        CodebookFormat("mine", 2, book)


def test_a_name_that_there_is_already() -> None:
    mine: tuple[Format, ...] = (CodebookFormat("int4", 1, (0.0, 1.0)),)
    with pytest.raises(OptionError, match="ptq/formats/mine has a format int4, which there is already; rename it"):
        _by_name({"integer": (get("int4"),), "mine": mine})
