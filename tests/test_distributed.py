"""Several processes make the file that one makes, to the last byte, and end together with the one that does not."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from pathlib import Path

import numpy as np
import pytest
from command import Command
from processes import started
from small_folder import Folder
from test_shares import photographs

from ptq.ranks import Ranks

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
FAILING = """
import os, time
import numpy as np

def batches():
    for start in range(0, 24, 4):
        if start == 16 and os.environ["RANK"] == "1":
            {what}
        yield np.random.default_rng(start).normal(size=(4, 1, 28, 28)).astype(np.float32)
"""

MEASURED = """
import os
from pathlib import Path
import numpy as np
from ptq.pipeline import importance

measure = importance.output_effects

def noted(*given):
    found = dict(measure(*given))
    (Path(__file__).parent / f"of_{os.environ.get('RANK', 'one')}").write_text(" ".join(found))
    return found.items()

importance.output_effects = noted

def batches():
    for start in range(0, 24, 4):
        yield np.random.default_rng(start).normal(size=(4, 3, 8, 8)).astype(np.float32)
"""


def together(
    size: int,
    arguments: Callable[[int], tuple[object, ...]],
    folder: Path,
    caches: int,
    environment: Mapping[str, str] | None = None,
) -> list[BaseProcess]:
    """So many ranks, which use so many caches, and say what they say in files of their number."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(size), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    shared |= environment or {}
    return [
        started(arguments(rank), folder / f"cache{rank % caches}", folder / str(rank), {**shared, "RANK": str(rank)})
        for rank in range(size)
    ]


def ended(processes: list[BaseProcess], folder: Path) -> tuple[list[int | None], list[str]]:
    """The exit codes of ranks, and what they said."""
    for process in processes:
        process.join(500)
        process.kill()
        process.join()
    return [process.exitcode for process in processes], [(folder / str(r)).read_text() for r in range(len(processes))]


def alike(size: int, caches: int, folder: Path, *options: object) -> None:
    """So many ranks write the file of one."""
    run = started(("quantize", *options, "-o", folder / "one.onnx"), folder / "cache", folder / "told")
    run.join()
    assert run.exitcode == 0, (folder / "told").read_text()
    output = folder / "several.onnx"
    codes, said = ended(together(size, lambda _: ("quantize", *options, "-o", output), folder, caches), folder)
    assert codes == [0] * size, said
    assert str(output) in said[0]
    assert not any(said[1:])
    assert output.read_bytes() == (folder / "one.onnx").read_bytes()


def test_two_ranks_with_caches_of_their_own_write_the_file_of_one(folder: Folder) -> None:
    alike(2, 2, folder.path, folder.model, "--data", folder.data, "--method", "gptq", "--weights", "int4")


@pytest.mark.parametrize(
    "options",
    [
        ("multipoint", "--bits", "6"),
        pytest.param(("mixed", "--bits", "6"), marks=pytest.mark.slow),
    ],
    ids=["multipoint", "mixed"],
)
def test_of_two_ranks_each_measures_a_part_of_the_layers(folder: Folder, options: tuple[str, ...]) -> None:
    (folder.path / "measured.py").write_text(MEASURED)
    alike(2, 2, folder.path, folder.model, "--data", "measured:batches", "--method", *options)
    everything, *parts = (set((folder.path / f"of_{rank}").read_text().split()) for rank in ("one", 0, 1))
    assert sorted(map(len, parts)) == [1, 2]
    assert set.union(*parts) == everything


@pytest.mark.slow
def test_two_ranks_compare_the_outputs_of_layers_as_one_does(folder: Folder) -> None:
    options = ("--method", "mixed", "--bits", "6", "--worth", "ompq")
    alike(2, 1, folder.path, folder.model, "--data", folder.data, *options)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["images", "compressed", "stream"])
def test_two_ranks_that_read_half_of_the_data_each_write_the_file_of_one(folder: Folder, kind: str) -> None:
    images: tuple[str, ...] = ()
    if kind == "images":
        data: object = photographs(folder.path, 9)
        images = ("--image-size", "8", "--image-mean", "0.5,0.5,0.5", "--image-std", "0.5,0.5,0.5")
    elif kind == "compressed":
        data = folder.path / "compressed.npz"
        np.savez_compressed(data, **np.load(folder.data))
    else:
        data = "measured:batches"
        (folder.path / "measured.py").write_text(MEASURED)
    alike(2, 1, folder.path, folder.model, "--data", data, *images, "--method", "gptq", "--weights", "int4")


@pytest.mark.long
@pytest.mark.timeout(600)
@pytest.mark.parametrize("caches", [1, 4])
@pytest.mark.parametrize(
    "options",
    [
        ("multipoint",),
        ("rtn", "--activations", "dynamic"),
        ("gptq", "--step", "bias-correction"),
        ("gptq", "--sequential"),
        ("adaround",),
    ],
)
def test_four_ranks_write_the_file_of_one(folder: Folder, digits: Path, caches: int, options: tuple[str, ...]) -> None:
    alike(4, caches, folder.path, digits, "--data", DIGITS / "calib.npz", "--method", *options)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ('raise ValueError("no disk")', "ptq: rank 1 on {host}: --data failing:batches fails: ValueError: no disk ("),
        ("os._exit(9)", "ptq: rank 1 on {host} ended without a word, killed or out of memory; start again, what was "),
    ],
    ids=["error", "end"],
)
def test_a_rank_that_ends_early_ends_the_run_with_its_reason(
    what: str, said: str, folder: Folder, digits: Path
) -> None:
    output = folder.path / "out.onnx"
    (folder.path / "failing.py").write_text(FAILING.format(what=what))
    run = together(2, lambda _: ("quantize", digits, "--data", "failing:batches", "-o", output), folder.path, 1)
    codes, lines = ended(run, folder.path)
    assert codes[0] == 1
    assert codes[1] in {1, 9}
    assert lines[0].startswith(said.format(host=socket.gethostname()))
    assert lines[0].count("\n") == 1
    assert not lines[1]
    assert not output.exists()


@pytest.mark.slow
def test_ranks_with_other_data_are_refused(folder: Folder, digits: Path) -> None:
    data = [folder.path / "0.npz", folder.path / "1.npz"]
    for rank, path in enumerate(data):
        np.savez(path, image=np.random.default_rng(rank).normal(size=(8, 1, 28, 28)).astype(np.float32))
    output = folder.path / "out.onnx"
    run = together(2, lambda rank: ("quantize", digits, "--data", data[rank], "-o", output), folder.path, 1)
    codes, lines = ended(run, folder.path)
    host = socket.gethostname()
    assert codes == [1, 1]
    assert lines == [
        f"ptq: rank 1 on {host} has data unlike rank 0 on {host}; give all the same files, options and versions\n",
        "",
    ]


@pytest.mark.slow
def test_an_interrupt_of_all_ranks_ends_them_within_two_seconds(folder: Folder, digits: Path) -> None:
    options = ("--data", DIGITS / "calib.npz", "--method", "adaround", "-o", folder.path / "out.onnx")
    processes = together(2, lambda _: ("quantize", digits, *options), folder.path, 1)
    while len(list((folder.path / "cache0").glob("*/*.safetensors"))) < 3:
        time.sleep(0.01)
    start = time.perf_counter()
    for process in processes:
        os.kill(process.pid or 0, signal.SIGINT)
    codes, lines = ended(processes, folder.path)
    assert time.perf_counter() - start < 2
    assert codes == [130, 130]
    first = f"(rank 1 on {re.escape(socket.gethostname())}: )?"  # whichever of them was the first to end
    assert re.match(f"ptq: {first}interrupted;", lines[0].strip())
    assert not lines[1].strip()


@pytest.mark.slow
def test_a_rank_that_is_silent_is_given_up(folder: Folder, digits: Path) -> None:
    """As one whose machine has lost its power: connections to it stay open."""
    options = ("--data", DIGITS / "calib.npz", "--method", "adaround", "-o", folder.path / "out.onnx")
    processes = together(2, lambda _: ("quantize", digits, *options), folder.path, 1, {"PTQ_SILENCE": "2"})
    while len(list((folder.path / "cache0").glob("*/*.safetensors"))) < 3:
        time.sleep(0.01)
    os.kill(processes[1].pid or 0, signal.SIGSTOP)
    processes[0].join(60)
    processes[1].kill()
    codes, lines = ended(processes, folder.path)
    assert codes == [1, -signal.SIGKILL]
    said = f"ptq: rank 1 on {socket.gethostname()} has been silent for 2 s; start again when it is back\n"
    assert lines[0] == said


def test_what_one_process_does_is_refused_to_several(ptq: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ptq.ranks._JOINED", [Ranks(0, 2)])
    ptq("formats").fails("only ptq quantize works with several processes; start this command without", code=2)


def test_layers_are_spread_by_what_they_cost() -> None:
    costs = [5.0, 1.0, 1.0, 1.0, 4.0, 1.0, 1.0]
    owners = Ranks(0, 2).owners(costs)
    loads = [sum(cost for cost, owner in zip(costs, owners, strict=True) if owner == rank) for rank in range(2)]
    assert loads == [7.0, 7.0]
    assert Ranks().owners(costs) == [0] * 7


@contextmanager
def hosts(count: int) -> Iterator[list[str]]:
    """Network namespaces that are connected by a bridge, each as a host of its own, by name."""
    names = [f"ptq{os.getpid()}x{host}" for host in range(count)]

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True, timeout=20)

    made = []
    try:
        try:
            for host, name in enumerate(["bridge", *names]):
                space = f"{names[0]}b" if not host else name
                ip("netns", "add", space)
                made.append(space)
            ip("-n", made[0], "link", "add", "bridge", "type", "bridge")
            ip("-n", made[0], "link", "set", "bridge", "up")
            for host, name in enumerate(names):
                ip("link", "add", "wire", "netns", name, "type", "veth", "peer", "name", f"p{host}", "netns", made[0])
                ip("-n", made[0], "link", "set", f"p{host}", "master", "bridge", "up")
                ip("-n", name, "addr", "add", f"10.77.0.{host + 1}/24", "dev", "wire")
                for link in ("wire", "lo"):
                    ip("-n", name, "link", "set", link, "up")
        except (OSError, subprocess.SubprocessError) as error:
            pytest.skip(f"network namespaces are not allowed here: {error}")
        yield names
    finally:
        for space in made:
            ip("netns", "del", space)


@pytest.mark.long
@pytest.mark.timeout(600)
def test_two_hosts_with_two_processes_each_write_the_file_of_one(folder: Folder, digits: Path) -> None:
    options = [digits, "--data", DIGITS / "calib.npz", "--method", "gptq", "-o"]
    alone = started(("quantize", *options, folder.path / "one.onnx"), folder.path / "cache", folder.path / "told")
    alone.join()
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "2"]
    with hosts(2) as names:
        runs = []
        for host, name in enumerate(names):
            where = ["--node-rank", str(host), "--master-addr", "10.77.0.1", "--master-port", "29511"]
            command = ["ip", "netns", "exec", name, *torchrun, *where, "-m", "ptq", "quantize"]
            environment = os.environ | {"PTQ_CACHE": str(folder.path / name), "GLOO_SOCKET_IFNAME": "wire"}
            words = [*command, *map(str, options), str(folder.path / "several.onnx")]
            runs.append(subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
        said = [run.communicate(timeout=300)[0].decode() for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    assert "PASS" in said[0]
    assert (folder.path / "several.onnx").read_bytes() == (folder.path / "one.onnx").read_bytes()
