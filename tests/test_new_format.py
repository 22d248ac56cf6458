"""A format in one new file: that of examples/new_format, as its page shows it, in a copy of the package."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from command import Run
from copied_package import Page, copy_package, run

from ptq.errors import OptionError
from ptq.formats import Format, _by_name, get
from ptq.formats.codebook import CodebookFormat

PAGE = Page("new_format")


SHOW = [each for each in PAGE.commands if each.startswith("formats")]
QUANTIZE = [f"{each} --json {each.split()[-1]}.json" for each in PAGE.commands if each.startswith("quantize")]


@pytest.fixture(scope="module")
def extended(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the package and the one file more, a model and data."""
    folder = tmp_path_factory.mktemp("copied")
    copy_package(folder, np.random.default_rng(3).normal(size=(16, 3, 8, 8)))
    (folder / "ptq" / "formats" / "mine.py").write_text(PAGE.snippet, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def runs(extended: Path) -> dict[str, Run]:
    return run(extended, [*SHOW, *QUANTIZE])


def test_the_page_shows_the_file() -> None:
    assert (PAGE.folder / "mine.py").read_text(encoding="utf-8") == PAGE.snippet


def test_the_commands_are_found() -> None:
    kinds = [" ".join(command.split()[:2]) for command in PAGE.commands]
    assert kinds == ["formats show"] * 2 + ["quantize model.onnx"] * 4


def test_without_the_file_it_is_unknown() -> None:
    with pytest.raises(OptionError, match="unknown format 'fp5_e2m2'"):
        get("fp5_e2m2")


@pytest.mark.parametrize("command", SHOW)
def test_it_is_shown(runs: dict[str, Run], command: str) -> None:
    found = runs[command]
    assert (found.code, found.err) == (0, "")
    assert len(re.findall(r"\b0x[0-9a-f]+ ", found.out)) == (31 if "fp5" in command else 8)


@pytest.mark.parametrize("command", QUANTIZE)
def test_models_are_quantized_to_it(extended: Path, runs: dict[str, Run], command: str) -> None:
    words = command.split()
    weights, output, report = (words[words.index(option) + 1] for option in ("--weights", "-o", "--json"))
    assert (runs[command].code, runs[command].err) == (0, "")
    said = json.loads((extended / report).read_text())
    assert (extended / output).stat().st_size == said["file"]["bytes"]
    layers = said["layers"]
    assert all(layer["format"].split("/")[0] == weights for layer in layers)
    assert min(layer["weight_sqnr_db"] for layer in layers) > (20 if weights == "fp5_e2m2" else 12)
    assert {layer["execution"] for layer in layers} == {"static" if weights == "fp5_e2m2" else "weights"}
    if "--data" in words:
        assert said["accuracy"]["sqnr_db"] > (20 if weights == "fp5_e2m2" else 10)


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
