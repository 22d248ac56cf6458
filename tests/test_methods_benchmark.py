"""The methods benchmark: its plan is one of recipes, it goes on where it stopped, and shows all that came out."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from small_folder import Folder, filled

from ptq.recipe import METHODS, STEPS, Recipe

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
FIGURES: dict[str, Any] = {
    "bits": 4.02,
    "bytes": 250_000,
    "float_bytes": 1_600_000,
    "top1": 0.95,
    "top1_float": 0.97,
    "cosine": 0.99,
    "perplexity": None,
    "perplexity_float": None,
    "agreement": 0.98,
    "sqnr_db": 20.5,
    "latency_ratio": 0.4,
    "load_seconds": 0.01,
    "quantize_seconds": 1.5,
    "wall_seconds": 5.0,
    "peak_bytes": 4.5e8,
}
OF_TEXT = {"top1": 0.3, "top1_float": 0.4, "perplexity": 40.0, "perplexity_float": 37.3}


@pytest.fixture
def module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def command(module: Callable[[str], ModuleType]) -> Callable[..., Result]:
    main = module("methods").main
    return lambda *arguments: CliRunner().invoke(main, list(map(str, arguments)))


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return filled(tmp_path)


def rows(page: str, heading: str) -> list[list[str]]:
    """The cells of the table below a heading."""
    lines = [line for line in page.partition(heading)[2].partition("\n## ")[0].splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(line) for line in cells}) == 1
    return cells[2:]


def recorded(task: str, method: str, bits: float, **changes: Any) -> str:
    """A line of the file of results."""
    key = {"task": task, "files": "0", "method": method, "bits": bits, "arguments": ["--method", "rtn"]}
    line = {
        "key": key,
        "outcome": changes.pop("outcome", "done"),
        "why": changes.pop("why", None),
        "limit": changes.pop("limit", None),
        "figures": {**FIGURES, **changes},
        "versions": {"ptq-toolkit": "0.1.0", "commit": "abc"},
        "machine": "a processor",
        "day": "2026-11-27",
    }
    return json.dumps(line) + "\n"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two models, and points that came to nothing."""
    path = tmp_path / "methods.jsonl"
    none = {"figures": {}}
    path.write_text(
        recorded("MiniLM", "rtn", 4, top1=None, top1_float=None)
        + recorded("SmolLM2", "gptq", 4, **OF_TEXT)
        + recorded("SmolLM2", "gptq", 3, **{**OF_TEXT, "perplexity": None})
        + recorded("EfficientNet-Lite0", "multipoint", 4.25, bytes=2_000_000)
        + recorded("EfficientNet-Lite0", "multipoint", 3.25, bytes=1_700_000, top1=0.9)
        + recorded("EfficientNet-Lite0", "rtn awq", 8, outcome="refused", why="no product", **none)
        + recorded("EfficientNet-Lite0", "rtn awq", 4, outcome="refused", why="no product", **none)
        + recorded("EfficientNet-Lite0", "adaround", 4, outcome="late", why="over 60 s", limit=60, **none)
        + recorded("EfficientNet-Lite0", "multipoint", 4.25, bytes=2_100_000, top1=0.96)
    )
    return path


@pytest.mark.parametrize("activations", ["uint8", "none"])
def test_every_point_is_a_recipe_of_the_bits_it_says(module: Callable[[str], ModuleType], activations: str) -> None:
    points = list(module("method_points").points())
    assert len({(point.method, point.bits) for point in points}) == len(points)
    for point in points:
        recipe = point.recipe(activations)
        assert isinstance(recipe, Recipe)
        assert recipe.method == point.method.split()[0]
        method = recipe.base(has_data=True)
        spent = recipe.bits or method.scheme.bits * (recipe.points or 1)
        assert point.bits - 0.25 < spent <= point.bits, point
    assert {point.method.split()[0] for point in points} == set(METHODS)
    assert {step for point in points for step in point.options.get("steps", ())} == set(STEPS)
    assert {point.bits for point in points} == set(module("method_points").BITS)


def test_arguments_are_those_of_the_command(module: Callable[[str], ModuleType]) -> None:
    point = module("method_points").Point("rtn x", 4, {"method": "rtn", "steps": ("awq", "bias-correction")})
    said = "--method rtn --step awq --step bias-correction --activations none"
    assert point.arguments("none") == said.split()


@pytest.mark.slow
def test_it_goes_on_where_it_stopped(folder: Folder, tmp_path: Path, command: Callable[..., Result]) -> None:
    results = tmp_path / "results.jsonl"
    task = ("--task", "net", folder.model, folder.data, folder.data, "none")
    only = ("--only", "net,rtn,8", "--only", ",rtn smoothquant,8")
    found = command("--results", results, *task, *only)
    assert found.exit_code == 0, found.output
    first, second = found.stdout.splitlines()
    assert first.startswith("net, rtn, 8 bits: top1 ")
    assert second.startswith("net, rtn smoothquant, 8 bits: refused: --step smoothquant finds no ")
    assert command("--results", results, *task, *only).stdout == ""
    whole = results.read_text()
    results.write_text(whole[:-10])  # as of a run that was killed
    assert command("--results", results, *task, *only).stdout == f"{second}\n"
    np.savez(folder.data, x=np.zeros((4, 3, 8, 8), np.float32), labels=np.zeros(4, np.int64))
    assert command("--results", results, *task, *only[:2]).stdout.startswith("net, rtn, 8 bits: ")


@pytest.mark.slow
def test_what_takes_too_long_is_ended_and_run_again_with_more_time(
    folder: Folder, tmp_path: Path, command: Callable[..., Result], module: Callable[[str], ModuleType]
) -> None:
    results = tmp_path / "results.jsonl"
    common = ("--results", results, "--task", "net", folder.model, folder.data, folder.data, "none")
    only = ("--only", "net,rtn,8")
    found = command(*common, *only, "--limit", 0.05)
    assert found.stdout == "net, rtn, 8 bits: late: over 0.05 s\n"
    (result,) = module("method_results").read(results)
    assert (result.outcome, result.limit, result.figures) == ("late", 0.05, {})
    assert result.settles(result.key, 0.05)
    assert result.settles(result.key, 0.01)
    assert not result.settles(result.key, 0.06)
    assert not result.settles(result.key, None)
    assert command(*common, *only, "--limit", 0.05).stdout == ""
    said = command(*common, "--only", "net,rtn,4", "--limit", 0.04).stdout
    assert said == "net, rtn, 4 bits: not run: over 0.05 s at 8 bits\n"
    assert command(*common, "--only", "net,rtn,4", "--limit", 0.04).stdout == ""
    assert not any(each.rules_out(result.key, 0.06) for each in module("method_results").read(results))
    assert command(*common, *only).stdout.startswith("net, rtn, 8 bits: top1 ")
    said = command(*common, "--only", "net,rtn,4", "--limit", 0.04).stdout
    assert said == "net, rtn, 4 bits: late: over 0.04 s\n"


def test_the_page_has_every_point_and_every_reason(
    results: Path, tmp_path: Path, command: Callable[..., Result]
) -> None:
    page = tmp_path / "new/methods.md"
    by_hand = "\n## What multipoint wins and loses\n\nMuch.\n"
    assert command("--results", results, "--table", page).exit_code == 0
    written = page.read_text()
    page.write_text(f"old{by_hand}")
    command("--results", results, "--table", page)
    assert page.read_text() == written + by_hand
    assert "2026-11-27; ptq-toolkit 0.1.0; commits abc; a processor." in written
    overview = rows(written, "## EfficientNet-Lite0: top-1, FP32 97.0 % by nominal bits")
    assert overview == [
        ["multipoint", "", "", "96.0 %", "", "90.0 %", "", ""],
        ["adaround", "", "", "", "late", "", "", ""],
        ["rtn awq", "refused", "", "", "refused", "", "", ""],
    ]
    assert rows(written, "## SmolLM2: perplexity, FP32 37.30 by")[0][4:7:2] == ["40.00", "no number"]
    assert rows(written, "## MiniLM: cosine, FP32 1.0000 by")[0][4] == "0.9900"
    points = rows(written, "## Every point")
    assert [line[:4] for line in points if line[0] == "EfficientNet-Lite0"] == [
        ["EfficientNet-Lite0", "FP32", "32", "32"],
        ["EfficientNet-Lite0", "multipoint", "4.25", "4.02"],
        ["EfficientNet-Lite0", "multipoint", "3.25", "4.02"],
        ["EfficientNet-Lite0", "adaround", "4", "over 60 s"],
        ["EfficientNet-Lite0", "rtn awq", "8", "refused"],
        ["EfficientNet-Lite0", "rtn awq", "4", "refused"],
    ]
    figures = ["2.10", "96.0 %", "0.9900", "", "98.0 %", "20.5", "0.40x", "1.5", "0.45"]
    assert next(line for line in points if line[:3] == ["EfficientNet-Lite0", "multipoint", "4.25"])[4:] == figures
    assert "- EfficientNet-Lite0, rtn awq, 8, 4: refused: no product\n" in written
    assert "- EfficientNet-Lite0, adaround, 4: late: over 60 s\n" in written
    assert len(rows(written, "## Other tools")) == len(json.loads((BENCHMARKS / "peers.json").read_text())["points"])


@pytest.mark.slow
def test_the_figure_is_written_in_both_formats(results: Path, tmp_path: Path, command: Callable[..., Result]) -> None:
    pytest.importorskip("matplotlib", reason="needs pip install -e '.[benchmarks]'")
    found = command("--results", results, "--figure", tmp_path / "new/methods")
    assert found.exit_code == 0, found.output
    assert (tmp_path / "new/methods.png").read_bytes().startswith(b"\x89PNG")
    drawn = (tmp_path / "new/methods.svg").read_text()
    assert all(f">{said}</t" in drawn for said in ("multipoint", "gptq", "FP32, 1.6 MB", "other tools (stars)"))
    assert ">adaround</t" not in drawn


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "there is nothing to run; give --task"),
        (["--only", "nett"], "unknown task 'nett'; did you mean 'net'?"),
        (["--only", "net,rtm"], "unknown method 'rtm'; did you mean 'rtn'?"),
        (["--only", "net,rtn,5"], "unknown number of bits '5'; known are "),
        (["--only", "net,rtn,4,x"], "has 4 parts"),
        (["--limit", "0"], "0.0 is not in the range x>0"),
    ],
)
def test_a_wrong_option(
    folder: Folder, tmp_path: Path, command: Callable[..., Result], options: list[str], message: str
) -> None:
    task = ("--task", "net", folder.model, folder.data, folder.data, "uint8") if options else ()
    found = command("--results", tmp_path / "results.jsonl", *task, *options)
    assert (found.exit_code, found.stdout) == (2, "")
    assert message in " ".join(found.stderr.replace("│", " ").split())


LOADER = """
import numpy as np, torch
def load(name, count):
    assert (name, count) == ("resnet", 64)
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    return network, np.zeros((70, 3, 2, 2)), np.ones((5, 3, 2, 2)), np.arange(5)
"""


@pytest.mark.slow
def test_models_are_made_once(tmp_path: Path) -> None:
    (tmp_path / "digits.py").write_text(LOADER)
    command = [sys.executable, str(BENCHMARKS / "models.py"), str(tmp_path), str(tmp_path / "made"), "--only", "digits"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert found.stdout.endswith("64 samples to calibrate on and 5 to evaluate on\n")
    evaluation = np.load(tmp_path / "made/digits_eval.npz")
    assert {name: each.shape for name, each in evaluation.items()} == {"x": (5, 3, 2, 2), "labels": (5,)}
    assert evaluation["x"].dtype == np.float32
    assert (tmp_path / "made/digits.onnx").exists()
    assert subprocess.run(command, capture_output=True, text=True, check=False).stdout == ""
    command[-1] = "lite0"
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (1, "")
    assert "Error: lite0: No module named 'efficientnet_lite0'; install the packages" in found.stderr
