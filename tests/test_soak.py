"""A process that quantizes again and again holds no more in the end than after a while."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[1] / "benchmarks" / "soak.py"
LEAK = """
import sys
sys.path.insert(0, {folder!r})
import soak
held = []
soak.Calls.of = classmethod(lambda cls, folder: cls(None, {{}}, {{}}, {{}}))
soak.Calls.call = lambda self, number: {leak}
soak.main(["--calls", "60", "--warm-up", "20", "--step", "10"])
"""


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_hundred_calls_hold_nothing() -> None:
    command = [sys.executable, str(SOAK), "--calls", "60", "--warm-up", "60", "--step", "10"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert done.stdout.splitlines()[-1].startswith("STEADY: ")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("leak", "said"),
    [
        ("None", "STEADY: "),
        ("held.append(bytearray(b'x' * 20_000))", "kilobytes by "),
        ("held.append(open(soak.__file__))", "handles from "),
        ("held.append(soak.tempfile.mkstemp())", "handles from "),
        ("held.append(soak.tempfile.mkdtemp())", "files from "),
    ],
    ids=["nothing", "memory", "handles", "open files", "folders"],
)
def test_what_is_leaked_is_seen(leak: str, said: str) -> None:
    code = LEAK.format(folder=str(SOAK.parent), leak=leak)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert said in done.stdout.splitlines()[-1], done.stdout + done.stderr
    assert done.returncode == (0 if said.startswith("STEADY") else 1)
