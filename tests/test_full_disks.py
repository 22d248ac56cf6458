"""A disk that takes no more, or nothing at all: one line, nothing half written, and the same command goes on later."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, TypeVar

import graphs
import numpy as np
import pytest
from command import Command
from small_folder import Folder

from ptq.audit.profile import profiles
from ptq.errors import OutputError
from ptq.model.capture import CaptureOptions, capture
from ptq.model.graph import Model
from ptq.model.streamed import Spool
from ptq.pipeline.written import Written

T = TypeVar("T")

FULL = "No space left on device"
METHOD = ("--method", "rtn", "--weights", "int8", "--overwrite")
LEFT = [4096, pytest.param(0, marks=pytest.mark.slow)]
"""Bytes of a disk that is nearly full, and of one that is."""

DIGITS = Path(__file__).parents[1] / "examples" / "digits"


@dataclass(frozen=True)
class Disk:
    """A file system of its own."""

    path: Path

    def fill(self, left: int = 0) -> None:
        """Leave so many bytes."""
        free = shutil.disk_usage(self.path).free
        (self.path / "filler").write_bytes(bytes(max(free - left, 0)))

    def free(self) -> None:
        (self.path / "filler").unlink()

    def mount(self, options: str) -> None:
        subprocess.run(["mount", "-o", options, "-t", "tmpfs", "tmpfs", str(self.path)], check=True)

    def files(self) -> dict[str, bytes]:
        """What is there but for the filler."""
        paths = [path for path in self.path.rglob("*") if path.is_file() and path.name != "filler"]
        return {str(path.relative_to(self.path)): path.read_bytes() for path in paths}


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    made = Disk(tmp_path / "disk")
    made.path.mkdir()
    try:
        made.mount("size=8m")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"this user may mount no file system: {error}")
    yield made
    subprocess.run(["umount", str(made.path)], check=True)


@pytest.mark.parametrize("left", LEFT)
def test_the_disk_of_the_output(ptq: Command, folder: Folder, disk: Disk, left: int) -> None:
    output = disk.path / "out.onnx"
    output.write_bytes(b"before")
    disk.fill(left)
    command = ("quantize", folder.model, *METHOD, "-o", output)
    ptq(*command).fails(f"cannot write {output}: {FULL}; free space or name another place")
    assert disk.files() == {"out.onnx": b"before"}
    disk.free()
    assert ptq(*command).code == 0
    assert list(disk.files()) == ["out.onnx"]


@pytest.mark.parametrize("left", LEFT)
def test_the_disk_of_the_cache(
    ptq: Command, folder: Folder, disk: Disk, left: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PTQ_CACHE", str(disk.path / "cache"))
    disk.fill(left)
    command = ("quantize", folder.model, "--data", folder.data, *METHOD, "-o", folder.output)
    ptq(*command).fails(f"the cache {disk.path / 'cache'} cannot be written", FULL, "; free space, run ptq cache clear")
    assert folder.names() == {"net.onnx", "calib.npz", "disk"}
    disk.free()
    assert ptq(*command).code == 0


def passing_on(call: Callable[..., T], path: Path) -> Callable[..., T]:
    """The same with its files that pass somewhere; those of pytest stay where they are."""

    def called(*arguments: object) -> T:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tempfile, "tempdir", str(path))
            return call(*arguments)

    return called


@pytest.mark.parametrize("left", LEFT)
def test_the_disk_of_what_passes(ptq: Command, folder: Folder, disk: Disk, left: int) -> None:
    """ONNX Runtime writes there too, and does not say what went wrong."""
    disk.fill(left)
    command = passing_on(ptq, disk.path)
    arguments = ("quantize", folder.model, "--data", folder.data, *METHOD, "-o", folder.output)
    command(*arguments).fails(TEMPORARY.format(disk.path))
    assert folder.names() == {"net.onnx", "calib.npz", "disk"}
    assert disk.files() == {}
    disk.free()
    assert command(*arguments).code == 0
    assert disk.files() == {}


TEMPORARY = f"cannot write temporary files in {{}}: {FULL}; free space, or name another folder by TMPDIR"
COMMANDS = {"quantize": ("--method", "rtn", "--weights", "int8", "--data"), "compare": ("{model}", "--eval")}


@pytest.mark.slow
@pytest.mark.measures_memory
@pytest.mark.parametrize("name", COMMANDS)
def test_that_disk_however_much_is_left(ptq: Command, digits: Path, disk: Disk, tmp_path: Path, name: str) -> None:
    """It is full in the middle of each file that passes; from enough on, all is as ever."""
    command = passing_on(ptq, disk.path)
    arguments = [each.format(model=digits) for each in COMMANDS[name]]
    output = ("--overwrite", "-o", tmp_path / "out.onnx") if name == "quantize" else ()
    codes = []
    for left in (0, *(1 << k for k in range(13, 23))):
        disk.fill(left)
        run = command(name, digits, *arguments, DIGITS / "calib.npz", *output)
        disk.free()
        assert disk.files() == {}
        codes.append(run.code)
        if run.code:
            run.fails(TEMPORARY.format(disk.path))
    assert codes == sorted(codes, reverse=True)
    assert set(codes) == {0, 1}


def test_a_profile_without_room(folder: Folder, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    feeds = {"x": np.zeros((1, 3, 8, 8), np.float32)}
    disk.fill(4096)
    monkeypatch.setattr("ptq.audit.profile.kernels_of", lambda _: {})
    with pytest.raises(OutputError, match=TEMPORARY.format(disk.path)):
        passing_on(profiles, disk.path)([folder.model], feeds)


def test_no_folder_for_what_passes(ptq: Command, folder: Folder) -> None:
    run = passing_on(ptq, folder.path / "none")("quantize", folder.model, *METHOD, "-o", folder.output)
    run.fails("cannot write temporary files", "No such file or directory", "by TMPDIR")


def test_folders_that_are_read_only(ptq: Command, folder: Folder, disk: Disk, monkeypatch: pytest.MonkeyPatch) -> None:
    disk.mount("remount,ro")
    output = disk.path / "out.onnx"
    ptq("quantize", folder.model, *METHOD, "-o", output).fails(f"{disk.path} of the output is not writable; choose")
    monkeypatch.setenv("PTQ_CACHE", str(disk.path / "cache"))
    run = ptq("quantize", folder.model, *METHOD, "-o", folder.output)
    run.fails(f"the cache {disk.path / 'cache'} cannot be written (Read-only file system); ")
    monkeypatch.setenv("PTQ_CACHE", str(disk.path))
    ptq("quantize", folder.model, *METHOD, "-o", folder.output).fails(f"{disk.path} cannot be written (Read-only")
    assert folder.names() == {"net.onnx", "calib.npz", "disk"}


@pytest.mark.slow  # of the first page that is made
@pytest.mark.parametrize("kind", ["json", "html"])
def test_the_disk_of_a_report(ptq: Command, folder: Folder, disk: Disk, kind: str) -> None:
    """The model gets its name with the report, so that the same command may be given again."""
    report, other = disk.path / f"report.{kind}", folder.path / "other"
    disk.fill(1024)
    both = (f"--{kind}", report, "--json" if kind == "html" else "--html", other)
    command = ("quantize", folder.model, *METHOD[:-1], "-o", folder.output, *both)
    ptq(*command).fails(f"cannot write {report}: {FULL}")
    assert disk.files() == {}
    assert folder.names() == {"net.onnx", "calib.npz", "disk"}
    disk.free()
    assert ptq(*command).code == 0
    assert {path.exists() for path in (report, other, folder.output)} == {True}


def test_an_output_on_a_disk_of_its_own(ptq: Command, folder: Folder, disk: Disk) -> None:
    output = disk.path / "out.onnx"
    for _ in range(2):
        assert ptq("quantize", folder.model, *METHOD[:-1], "-o", output).code == 0
        ptq("quantize", folder.model, *METHOD[:-1], "-o", output).fails("exists")
        output.unlink()


def test_a_disk_without_links(ptq: Command, folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    """As FAT is one."""

    def refuse(*_: object) -> NoReturn:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    command = ("quantize", folder.model, *METHOD[:-1], "-o", folder.output)
    assert ptq(*command).code == 0
    ptq(*command).fails("exists")


def wide() -> Model:
    """A layer of 64 kB."""
    proto = graphs.model("y = MatMul (x, w)", "float[n, 128] x", "float[n, 128] y", {"w": (128, 128)})
    return Model.of(capture(proto, CaptureOptions(), None))


@pytest.mark.parametrize("left", [*LEFT, pytest.param(1 << 16, marks=pytest.mark.slow)])
def test_weights_in_a_file_of_their_own(disk: Disk, left: int, tmp_path: Path) -> None:
    """Of both files none is there, or those that were there before are as they were."""
    output = disk.path / "out.onnx"
    Written.of(wide(), output, most_bytes=1000).move(output, overwrite=False)
    before = disk.files()
    assert list(before) == ["out.onnx", "out.onnx.data"]
    disk.fill(left)
    with pytest.raises(OutputError, match=f"cannot write {output}: {FULL}; free space"):
        Written.of(wide(), output, most_bytes=1000)
    assert disk.files() == before
    with pytest.raises(OutputError, match=f"cannot write {output}: {FULL}; free space"):
        Written.of(wide(), tmp_path / "elsewhere.onnx", most_bytes=1000).copy(output, overwrite=True)
    assert disk.files() == before


def test_large_weights_on_their_way(disk: Disk) -> None:
    output = disk.path / "out.onnx"
    disk.fill(4096)
    graph = wide().graph.graph
    with pytest.raises(OutputError, match=f"cannot write {output}: {FULL}; free space"), Spool(output) as spool:
        spool.take(graph)
    assert disk.files() == {}


@pytest.mark.parametrize("most", [4096, pytest.param(256, marks=pytest.mark.slow)])
def test_files_that_may_not_be_larger(ptq: Command, folder: Folder, most: int) -> None:
    """A limit of the process, where nothing can be mounted."""
    command = ("quantize", folder.model, "--data", folder.data, *METHOD, "-o", folder.output)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, hard))
    try:
        run = ptq(*command)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    run.fails("File too large", "; free space")
    assert folder.names() == {"net.onnx", "calib.npz"}
    assert ptq(*command).code == 0
