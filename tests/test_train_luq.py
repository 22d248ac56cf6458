"""The example that trains in 4 bits; the digits and the plot need packages of the group `examples`."""

from __future__ import annotations

import runpy
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from click.testing import CliRunner

EXAMPLE = Path(__file__).parents[1] / "examples/train_luq.py"


@pytest.mark.slow
def test_a_few_steps(tmp_path: Path) -> None:
    for package in ("matplotlib", "mlxtend"):
        pytest.importorskip(package, reason="needs pip install -e '.[examples]'")
    command = [sys.executable, EXAMPLE, "--epochs", "0.05", "--recipe", "luq", "--all-layers", "-o", tmp_path / "new"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr
    assert "fp32: " in found.stdout
    assert "luq: " in found.stdout
    assert (tmp_path / "new/loss.png").read_bytes().startswith(b"\x89PNG")
    program = torch.export.load(tmp_path / "new/luq.pt2").module()
    assert program(torch.zeros(5, 1, 28, 28)).shape == (5, 10)
    assert f"ptq quantize {tmp_path / 'new/luq.pt2'} --method rtn --data " in found.stdout


@pytest.mark.parametrize("package", ["matplotlib", "mlxtend"])
def test_a_missing_package_is_named_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    if "matplotlib" not in sys.modules:
        monkeypatch.setitem(sys.modules, "matplotlib", ModuleType("matplotlib"))
    monkeypatch.setitem(sys.modules, package, None)
    found = CliRunner().invoke(runpy.run_path(str(EXAMPLE))["main"], ["-o", str(tmp_path / "new")])
    assert (found.exit_code, found.stdout) == (1, "")
    assert f"module '{package}' is not installed; run: pip install -e '.[examples]'" in found.stderr


def test_an_unknown_recipe(tmp_path: Path) -> None:
    said = ["--recipe", "lug", "-o", str(tmp_path / "new")]
    found = CliRunner().invoke(runpy.run_path(str(EXAMPLE))["main"], said)
    assert found.exit_code == 2
    assert "no recipe 'lug'; take of fp4-naive, " in found.stderr
    assert not (tmp_path / "new").exists()
