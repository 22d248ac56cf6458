"""The documentation: its commands and code run, its reference is that of the code, and the site builds."""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import pytest
from command import Command
from conftest import DIGITS
from onnx import TensorProto, helper, numpy_helper
from small_network import samples, write_network

import ptq as library
from cli.main import commands
from ptq.model.session import Session

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs" / "pages"
RNG = np.random.default_rng(5)
WORDS, WIDTH = 80, 64


def digits(folder: Path) -> None:
    shutil.copy(DIGITS / "model.pt", folder)
    for name, count in (("calib", 16), ("eval", 32)):
        with np.load(DIGITS / f"{name}.npz") as arrays:
            np.savez(folder / f"{name}.npz", **{key: arrays[key][:count] for key in arrays.files})


def text(folder: Path, name: str, *, pooled: bool) -> None:
    """A table, two products and either a mean or logits."""
    last = WIDTH if pooled else WORDS
    shapes = {"table": (WORDS, WIDTH), "up": (WIDTH, 2 * WIDTH), "down": (2 * WIDTH, last)}
    stored = [numpy_helper.from_array(RNG.normal(size=s).astype(np.float32) / 8, n) for n, s in shapes.items()]
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["e"], "embed"),
        helper.make_node("MatMul", ["e", "up"], ["u"], "up_product"),
        helper.make_node("Relu", ["u"], ["r"]),
        helper.make_node("MatMul", ["r", "down"], ["d"], "down_product"),
        helper.make_node("ReduceMean" if pooled else "Identity", ["d", "axis"] if pooled else ["d"], ["y"]),
    ]
    if pooled:
        stored.append(numpy_helper.from_array(np.array([1]), "axis"))
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["n", "length"])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", "m" if pooled else "length", last])],
        stored,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), folder / name)
    tokens = RNG.integers(0, WORDS, (24, 13))
    labels = {} if pooled else {"labels": tokens[16:, 1:]}
    np.savez(folder / "calib.npz", input_ids=tokens[:16, :-1])
    np.savez(folder / "eval.npz", input_ids=tokens[16:, :-1], **labels)


FOLDERS: dict[str, Callable[[Path], None]] = {
    "digits": digits,
    "encoder": lambda folder: text(folder, "encoder.onnx", pooled=True),
    "lm": lambda folder: text(folder, "lm.onnx", pooled=False),
    "training": lambda folder: None,
}


def blocks(page: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)


TUTORIALS = sorted(path for path in PAGES.rglob("*.md") if "<!-- folder: " in path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, marks=[pytest.mark.slow] if path.stem == "cnn" else []) for path in TUTORIALS],
    ids=[path.stem for path in TUTORIALS],
)
def test_what_a_tutorial_shows_runs(path: Path, tmp_path: Path, ptq: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    page = path.read_text(encoding="utf-8")
    (kind,) = re.findall(r"<!-- folder: (\w+) -->", page)
    FOLDERS[kind](tmp_path)
    monkeypatch.chdir(tmp_path)
    ran = 0
    for line in "".join(blocks(page, "sh")).splitlines():
        if line.startswith("ptq "):
            run = ptq(*shlex.split(line)[1:])
            assert run.code == 0, (line, run.err)
            ran += 1
        else:
            assert line.startswith("cd ")
    names: dict[str, object] = {}
    for code in blocks(page, "python"):
        exec(compile(code, path.name, "exec"), names)
        ran += 1
    assert ran >= 2
    written = re.findall(r"-o (\S+\.onnx)", "".join(blocks(page, "sh")))
    assert {*written} <= {each.name for each in tmp_path.iterdir()}


def test_every_tutorial_is_run() -> None:
    assert {path.stem for path in TUTORIALS} == {path.stem for path in (PAGES / "tutorials").iterdir()}


README = (ROOT / "README.md").read_text(encoding="utf-8")
LINES = [line.strip() for line in README.splitlines() if line.startswith("    ptq ")]


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with all that the commands of the README name."""
    folder = tmp_path_factory.mktemp("readme")
    write_network(folder / "model.onnx")
    x = samples(24)
    np.savez(folder / "calib.npz", x=x[:16])
    labels = Session(folder / "model.onnx").run({"x": x[16:]})[0].argmax(1)
    np.savez(folder / "eval.npz", x=x[16:], labels=labels)
    made = library.quantize(folder / "model.onnx", folder / "calib.npz", method="rtn", weights="int8")
    for name in ("a.onnx", "b.onnx"):
        made.save(folder / name)
    shutil.copy(folder / "model.onnx", folder / "model.pt")  # the kind is found by looking into the file
    (folder / "mine.toml").write_text('weights = "int4"\n[[layers]]\nmatch = "head"\nweights = "int8"\n')
    return folder


def test_the_readme_has_every_command() -> None:
    assert {line.split()[1] for line in LINES} == set(commands.commands)


AGAIN = re.compile(r"^ptq (sweep|diagnose|quantize .*--method auto)")
"""Commands that quantize again and again; they are tried where the longest tutorial is."""


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(line, id=line.partition("  ")[0], marks=[pytest.mark.slow] if AGAIN.search(line) else [])
        for line in LINES
    ],
)
def test_what_the_readme_shows_runs(
    line: str, shown: Path, tmp_path: Path, ptq: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    for each in shown.iterdir():
        shutil.copy(each, tmp_path)
    monkeypatch.chdir(tmp_path)
    words = shlex.split(line, comments=True)[1:]
    wide = ["--max-drop", "1"] if "--max-drop" in words or "--target-size" in words else []
    run = ptq(*words, *wide)
    assert run.code == 0, run.err


@pytest.fixture(scope="module")
def made() -> Callable[[str], ModuleType]:
    def module(name: str) -> ModuleType:
        with pytest.MonkeyPatch.context() as patch:
            patch.syspath_prepend(str(ROOT / "docs"))
            return importlib.import_module(name)

    return module


def test_the_reference_is_that_of_the_code(made: Callable[[str], ModuleType]) -> None:
    for name, page in made("reference").pages().items():
        known = (PAGES / "reference" / name).read_text(encoding="utf-8")
        assert known == page.rstrip() + "\n", f"{name} is out of date; run `make docs`"


def test_the_figure_shows_what_its_page_says(made: Callable[[str], ModuleType]) -> None:
    weights, one, two = made("figures").rows()
    errors = [np.abs(row - weights).max() for row in (one, two)]
    assert errors[1] < errors[0] / 10
    assert "<svg" in (PAGES / "multipoint.svg").read_text(encoding="utf-8")


def test_the_site_builds(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "-f", ROOT / "docs" / "mkdocs.yml"]
    done = subprocess.run([*command, "-d", tmp_path / "site"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "reference" / "commands.html").exists()
