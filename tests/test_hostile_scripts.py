"""TorchScript and programs whose code writes files: nothing is written unless the user trusts the file."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from model_files import model_files
from torch import Tensor, nn

from ptq.errors import ModelFileError, UntrustedPickleError
from ptq.model.capture import CaptureOptions, capture

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
EXAMPLE = {"x": np.ones((2, 4), np.float32)}


class Saves(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        torch.save(x, "written")
        return x + 1


class Maps(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.from_file("written", True, 4)


class SavesWhenLoaded(nn.Module):
    @torch.jit.export
    def __getstate__(self) -> int:
        return 0

    @torch.jit.export
    def __setstate__(self, state: int) -> None:
        self.training = False
        torch.save(torch.zeros(1), "written")

    def forward(self, x: Tensor) -> Tensor:
        return x


@pytest.mark.parametrize("kind", [Saves, Maps, SavesWhenLoaded])
def test_a_script_does_not_write_files(kind: type[nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.jit.script(kind()).save("script.pt")
    Path("written").unlink(missing_ok=True)
    with pytest.raises(UntrustedPickleError, match=r"reaches out of the model \((save|from_file)\).*--trust-pickle"):
        capture(Path("script.pt"), CaptureOptions(), EXAMPLE)
    assert not Path("written").exists()
    if kind is SavesWhenLoaded:  # the file can be written at all
        torch.jit.load("script.pt")
        assert Path("written").exists()


@pytest.mark.parametrize("name", ["from_file.default", "save.default", "from_file"])
def test_a_program_does_not_write_files(name: str, tmp_path: Path) -> None:
    path = tmp_path / "program.pt2"
    path.write_bytes(model_files()["program"][1])
    with zipfile.ZipFile(path) as archive:
        members = {each: archive.read(each) for each in archive.namelist()}
    graph = next(each for each in members if each.endswith("models/model.json"))
    content = json.loads(members[graph])
    content["graph_module"]["graph"]["nodes"][0]["target"] = f"torch.ops.aten.{name}"
    with zipfile.ZipFile(path, "w") as archive:
        for each, data in members.items():
            archive.writestr(each, json.dumps(content) if each == graph else data)
    with pytest.raises(UntrustedPickleError, match=rf"the operator 'torch.ops.aten.{name}'"):
        capture(path, CaptureOptions())


def test_damaged_code_is_one_line(tmp_path: Path) -> None:
    data = bytearray(model_files()["script"][1])
    path = tmp_path / "script.pt"
    path.write_bytes(data)
    with zipfile.ZipFile(path) as archive:
        info = next(each for each in archive.infolist() if each.filename.endswith(".py"))
    at = info.header_offset + 30 + len(info.filename) + info.compress_size // 2
    for place in range(at, at + 64):
        data[place] ^= 0x55
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match="holds TorchScript that cannot be read") as error:
        capture(path, CaptureOptions(), EXAMPLE)
    assert "\n" not in str(error.value)


class Repeating(nn.Module):
    """Its buffer is one number in the file, and 40 GB in a graph."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("much", torch.ones(1).expand(100_000, 100_000))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.much[:1, :3]


@pytest.mark.filterwarnings("ignore:No complete tensor found", "ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("kind", ["program", "script"])
def test_a_tensor_that_repeats_what_a_file_holds_takes_no_memory(kind: str, tmp_path: Path) -> None:
    path, example = tmp_path / "m.pt", torch.zeros(2, 3)
    if kind == "program":
        torch.export.save(torch.export.export(Repeating(), (example,)), path)
    else:
        torch.jit.save(torch.jit.trace(Repeating(), example), path)
    assert path.stat().st_size < 1 << 20
    with pytest.raises(ModelFileError, match=r"holds 4 bytes of '.*much', whose .* takes 40\.0 GB"):
        capture(path, CaptureOptions())
