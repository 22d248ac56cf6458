"""Damaged files on the command line, and damaged bytes for the readers: success or one clear line, nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
READERS = ("model", "pickle", "data", "onnx", "input", "formula")
SHARDS = 2


def ran(script: str, arguments: Sequence[object]) -> subprocess.CompletedProcess[str]:
    """A script here in a process of its own: it forks, which a process with the threads of a test runner must not."""
    paths = [str(ROOT / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(HERE / script), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)


def check(kind: str, first: int, step: int, count: int) -> None:
    done = ran("campaign.py", [kind, "--first", first, "--step", step, "--count", count])
    assert done.stdout, done.stderr
    found = json.loads(done.stdout)
    sys.stdout.write(done.stdout)
    assert found["faults"] == {}
    assert found["files"] == count
    assert {"0", "1"} <= {*found["codes"]}, "some files are whole enough to be quantized"


@pytest.mark.parametrize("kind", ["models", "data"])
def test_some_damaged_files(kind: str) -> None:
    check(kind, 0, 1, 10)


@pytest.mark.long
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize("kind", ["models", "data"])
def test_2000_damaged_files(kind: str, shard: int) -> None:
    check(kind, shard, SHARDS, 2000 // SHARDS)


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("reader", READERS)
def test_readers_take_or_refuse_any_bytes(reader: str) -> None:
    done = ran("readers.py", [reader, "--rounds", 3000])
    assert done.returncode == 0, done.stderr[-3000:]
