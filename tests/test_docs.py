"""The table of the README, against the code that it follows from and the kernels that it names."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from torch import nn

import ptq
from ptq.recipe import ACTIVATIONS
from ptq.training import RECIPES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tables() -> ModuleType:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "docs"))
        return importlib.import_module("tables")


@pytest.fixture(scope="module")
def now(tables: ModuleType) -> str:
    return str(tables.updated(README))


def test_the_readme_says_what_is_true_now(now: str) -> None:
    assert now == README, "the table of the README is out of date; run `make docs`"


def test_what_was_changed_by_hand_is_written_anew(
    tables: ModuleType, now: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "table", lambda: "| new |")
    made = tables.updated(README)
    assert made.count("\n| new |\n") == 1
    assert "`int2`" not in made[made.index(tables.BEGIN) : made.index(tables.END)]
    assert tables.updated(now) == tables.updated(made) == made
    with pytest.raises(ValueError, match="put them back"):
        tables.updated(README.replace(tables.END, ""))


@pytest.mark.parametrize(
    ("weights", "group", "method", "cells"),
    [
        ("int4", "channel", "multipoint", ("int8", "int8; Conv float", "MatMulNBits; Conv float")),
        ("int4", "32", "multipoint", ("int8", "int8; Conv float", "MatMulNBits; Conv float")),
        ("pot4", "channel", "multipoint", ("-", "-", "-")),
        ("int8", "32", "gptq", ("-", "-", "MatMulNBits; Conv float")),
        ("fp8_e4m3fn", "channel", "rtn", ("-", "-", "float")),
        ("mxfp4", None, "rtn", ("-", "-", "MatMulNBits; Conv float")),
        ("e8m0", "channel", "rtn", ("-", "-", "-")),
    ],
)
def test_what_is_known_of_some(
    tables: ModuleType, weights: str, group: str | None, method: str, cells: tuple[str, ...]
) -> None:
    assert tuple(tables.cell(weights, group, method, kind) for kind in ("uint8", "dynamic", "none")) == cells


@pytest.mark.slow
@pytest.mark.parametrize("activations", ACTIVATIONS)
def test_what_is_said_is_what_runs(tables: ModuleType, activations: str) -> None:
    rng = np.random.default_rng(0)
    data = {"image": (8, 32, 4, 4), "rows": (8, 4, 32)}
    arrays = {name: rng.normal(size=shape).astype(np.float32) for name, shape in data.items()}
    column = ACTIVATIONS.index(activations)
    for ways, (weights, *_) in tables.ways().items():
        for way in ways:
            if way.cells[column] == tables.NOTHING:
                continue
            group = None if way.groups[-1] == "its own" else way.groups[-1]
            options = {"weights": weights, "group": group, "method": way.methods[0], "activations": activations}
            conv, product = ptq.quantize(tables.probe(), arrays, **options).report.layers
            found = [
                _word(layer.kernel, integer=layer.integer, simulated="fp8" in activations) for layer in (product, conv)
            ]
            assert tables.BUT_CONV.join(dict.fromkeys(found)) == way.cells[column], options


def _word(kernel: str | None, *, integer: bool, simulated: bool) -> str:
    if kernel == "MatMulNBits":
        return kernel
    return "int8" if integer else "simulated" if simulated else "float"


def test_every_training_recipe_is_described() -> None:
    part = README.partition("## Train in few bits")[2].partition("\n## ")[0]
    assert {row.split("`")[1] for row in part.splitlines() if row.startswith("| `")} == set(RECIPES)


def test_the_training_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From conversion to a file; its dots are statements that do nothing."""
    part = README.partition("## Train in few bits")[2]
    code = part.partition("```python\n")[2].partition("```")[0]
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    np.savez(tmp_path / "calib.npz", input=np.random.default_rng(0).standard_normal((16, 4)).astype(np.float32))
    monkeypatch.chdir(tmp_path)
    names = {"model": model, "optimizer": torch.optim.SGD(model.parameters(), lr=0.1)}
    exec(compile(code, "README.md", "exec"), names)
    assert len(names["result"].report.layers) == 3
