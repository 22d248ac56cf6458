"""The example that trains in 4 bits; the digits and the plot need packages of the group `examples`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

EXAMPLE = Path(__file__).parents[1] / "examples/train_luq.py"


def run(*arguments: object, first: str = "") -> subprocess.CompletedProcess[str]:
    code = (
        f"import runpy, sys\n{first}\nsys.argv[0] = {str(EXAMPLE)!r}\nrunpy.run_path(sys.argv[0], run_name='__main__')"
    )
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_a_few_steps(tmp_path: Path) -> None:
    for package in ("matplotlib", "mlxtend"):
        pytest.importorskip(package, reason="needs pip install -e '.[examples]'")
    found = run("--epochs", 0.05, "--recipe", "luq", "--all-layers", "-o", tmp_path / "new")
    assert found.returncode == 0, found.stderr
    assert "fp32: " in found.stdout
    assert "luq: " in found.stdout
    assert (tmp_path / "new/loss.png").read_bytes().startswith(b"\x89PNG")
    program = torch.export.load(tmp_path / "new/luq.pt2").module()
    assert program(torch.zeros(5, 1, 28, 28)).shape == (5, 10)
    assert f"ptq quantize {tmp_path / 'new/luq.pt2'} --method rtn --data " in found.stdout


@pytest.mark.parametrize("package", ["matplotlib", "mlxtend"])
def test_a_missing_package_is_named_with_its_command(tmp_path: Path, package: str) -> None:
    missing = f"sys.modules[{package!r}] = None"
    others = f"import types; sys.modules.setdefault('matplotlib', types.ModuleType('matplotlib')); {missing}"
    found = run("-o", tmp_path / "new", first=others)
    assert (found.returncode, found.stdout) == (1, "")
    assert f"module '{package}' is not installed; run: pip install -e '.[examples]'" in found.stderr


def test_an_unknown_recipe(tmp_path: Path) -> None:
    found = run("--recipe", "lug", "-o", tmp_path / "new")
    assert found.returncode == 2
    assert "no recipe 'lug'; take of fp4-naive, " in found.stderr
    assert not (tmp_path / "new").exists()
