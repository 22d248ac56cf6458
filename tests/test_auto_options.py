"""The options of `--method auto`: what is wrong is said before the search, what holds holds for all candidates."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from small_folder import Folder, filled

import ptq
from cli.main import commands
from ptq import presets
from ptq.errors import DataError, OptionError
from ptq.pipeline import auto
from ptq.recipe import Auto, Recipe, asked

FEW = ("int8", "int8-weights", "w4a8", "int4-awq")


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four candidates are enough to choose from."""
    monkeypatch.setattr(presets, "CANDIDATES", {**presets.CANDIDATES, "cpu": FEW})


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return filled(tmp_path)


def test_what_is_wrong_is_said_before_the_search(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "halves", lambda _: pytest.fail("it began"))
    with pytest.raises(DataError, match="does not exist"):
        ptq.quantize(folder.model, folder.data, eval_data="nowhere.npz", method="auto")
    with pytest.raises(OptionError, match="give --data"):
        ptq.quantize(folder.model, method="auto")
    with pytest.raises(OptionError, match="--target-size is what --method auto chooses by"):
        ptq.quantize(folder.model, folder.data, target_size="1MB")
    with pytest.raises(OptionError, match="--recipe names one"):
        ptq.quantize(folder.model, folder.data, recipe="int8", method="auto")


def test_one_reason_of_all_is_the_error(folder: Folder) -> None:
    with pytest.raises(OptionError, match=r"--keep-float 'nothing' matches no layer; the layers are one, two, three"):
        ptq.quantize(folder.model, folder.data, method="auto", keep_float=("nothing",))
    with pytest.raises(DataError, match="every other sample: there are no samples"):
        ptq.quantize(folder.model, {"x": np.ones((1, 3, 8, 8), np.float32)}, method="auto")


def test_options_hold_for_all(folder: Folder) -> None:
    found = asked(None, {"method": "auto", "activations": "uint8", "keep_float": ["two"]})
    assert isinstance(found, Auto)
    assert found.refused == {
        "int8-weights": "the same as int8 with the options given",
    }
    assert all(made.keep_float == ("two",) and made.activations == "uint8" for made in found.recipes.values())
    found = asked({"method": "auto", "group": 64}, {"keep_float": ("two",)})
    assert isinstance(found, Auto)
    assert {(made.group, made.keep_float) for made in found.recipes.values()} == {("64", ("two",))}
    with pytest.raises(OptionError, match=r"no recipe goes with .*, int8 as unknown --range 'most'; known are"):
        asked(None, {"method": "auto", "range": "most"})
    with pytest.raises(OptionError, match="unknown --target 'gpu'"):
        asked(None, {"method": "auto", "target": "gpu"})
    with pytest.raises(OptionError, match=r"unknown --method 'atuo'; did you mean 'auto'\?"):
        asked(None, {"method": "atuo"})
    assert asked({"method": "auto", "group": 64}, {"method": "rtn"}) == Recipe(method="rtn", group="64")


def test_a_dry_run_says_what_would_be_tried(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("int8", "w4a8", "w4a8-multipoint")
    monkeypatch.setattr(presets, "CANDIDATES", {**presets.CANDIDATES, "cpu": names})
    before = folder.names()
    command = ["quantize", folder.model, "--data", folder.data, "--method", "auto", "--dry-run", "--bits", "4.5"]
    run = CliRunner().invoke(commands, list(map(str, command)), catch_exceptions=False)
    assert run.exit_code == 0
    assert folder.names() == before
    rows = {
        line.split()[0]: line.split()[1:] for line in run.output.splitlines() if line.split()[:1] and "x" not in line
    }
    assert float(rows["w4a8-multipoint"][0]) == pytest.approx(4.5, abs=0.05)
    assert rows["int8"] == rows["w4a8"] == ["refused"]
    assert "refused  int8: --bits is read by --method" in run.output
    assert run.output.splitlines()[-1] == "nothing was written: --dry-run"
