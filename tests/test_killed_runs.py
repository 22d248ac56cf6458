"""A run that is killed at any moment loses nothing, leaves no part of a file, and goes on from there."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from processes import started
from small_folder import Folder

METHOD = ("--method", "multipoint", "--weights", "int4")


def finished(arguments: tuple[object, ...], cache: Path, told: Path) -> float:
    """Run to the end, and how many seconds it took."""
    start = time.perf_counter()
    process = started(arguments, cache, told)
    process.join()
    assert process.exitcode == 0, told.read_text()
    return time.perf_counter() - start


def killed_again_and_again(folder: Folder, model: Path, data: Path, times: int) -> None:
    """Kill runs at random moments, the cache being emptied now and then; whole files are all that is ever seen."""
    place = folder.path / "place"
    place.mkdir()
    output, cache, told = place / "out.onnx", folder.path / "cache", folder.path / "told"
    arguments = ("quantize", model, "--data", data, *METHOD, "--overwrite", "-o", output)
    finished(arguments, cache, told)
    expected = output.read_bytes()
    shutil.rmtree(cache)
    seconds = finished(arguments, cache, told)
    assert output.read_bytes() == expected
    moments = random.Random(0)
    for attempt in range(times):
        if attempt % 5 == 0:
            shutil.rmtree(cache)
        output.unlink(missing_ok=True)
        process = started(arguments, cache, told)
        time.sleep(moments.uniform(0, seconds))
        process.kill()
        process.join()
        if output.exists():
            assert output.read_bytes() == expected
    output.unlink(missing_ok=True)
    finished(arguments, cache, told)
    assert output.read_bytes() == expected
    assert [each.name for each in place.iterdir()] == [output.name]


DIGITS = Path(__file__).parents[1] / "examples" / "digits"


def test_killed_at_a_few_moments(folder: Folder) -> None:
    killed_again_and_again(folder, folder.model, folder.data, 3)


@pytest.mark.long
@pytest.mark.timeout(1200)
def test_killed_at_fifty_moments(folder: Folder, digits: Path) -> None:
    killed_again_and_again(folder, digits, DIGITS / "calib.npz", 50)


def test_an_interrupt_ends_a_run_within_two_seconds(folder: Folder, digits: Path) -> None:
    output, cache, told = folder.path / "out.onnx", folder.path / "cache", folder.path / "told"
    arguments = ("quantize", digits, "--data", DIGITS / "calib.npz", "--method", "adaround", "-o", output)
    process = started(arguments, cache, told)
    while not list(cache.glob("*/*.safetensors")):  # something is finished, and the rest is not
        time.sleep(0.01)
    start = time.perf_counter()
    os.kill(process.pid or 0, signal.SIGINT)
    process.join()
    assert time.perf_counter() - start < 2
    assert process.exitcode == 130
    assert told.read_text().strip() == (
        "ptq: interrupted; nothing was written, and what was finished is kept: the same command goes on from there"
    )
    assert not output.exists()


def test_a_second_run_of_the_same_output_is_refused(folder: Folder, digits: Path) -> None:
    output, cache, told = folder.path / "out.onnx", folder.path / "cache", folder.path / "told"
    arguments = ("quantize", digits, "--data", DIGITS / "calib.npz", "--method", "adaround", "-o", output)
    first = started(arguments, cache, told)
    while not list((cache / "runs").glob("*")):
        time.sleep(0.01)
    second = started(arguments, cache, folder.path / "second")
    second.join()
    assert second.exitcode == 1
    said = (folder.path / "second").read_text()
    assert said == f"ptq: another run, process {first.pid}, is writing {output}; wait for it, or give another -o\n"
    first.kill()
    first.join()


STUCK = """
import os, sys
import numpy as np
from cli.interrupt import ends_soon
numbers = np.random.default_rng(0).normal(size=(4000, 4000))
with ends_soon(lambda: os._exit(7)):
    print("begun", flush=True)
    np.linalg.svd(numbers)
"""


def test_a_call_that_does_not_come_back_is_not_waited_for() -> None:
    """Python sees a signal between two calls only."""
    with subprocess.Popen([sys.executable, "-c", STUCK], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "begun\n"
        time.sleep(0.2)
        start = time.perf_counter()
        process.send_signal(signal.SIGINT)
        assert process.wait() == 7
        assert time.perf_counter() - start < 2
