"""Data that are damaged or mean harm: one line about them, no code run, no memory spent."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from calibration import sources, stored
from calibration.dataset import fit
from calibration.images import ImageOptions
from calibration.sources import open_data
from calibration.spec import InputSpec
from ptq.errors import DataError

X = [InputSpec("x", "float32", ("n", 3))]


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("form", ["npy", "npz", "pt", "legacy pt", "pickle", "npy in a torch file"])
def test_a_bomb_is_not_set_off(form: str, tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "data"
    objects = np.array([Bomb(marker)], object)
    with path.open("wb") as file:
        if form == "npy":
            np.save(file, objects)
        elif form == "npz":
            np.savez(file, x=objects)
        elif form == "pickle":
            pickle.dump({"x": Bomb(marker)}, file)
        else:
            content = {"x": objects if "npy" in form else Bomb(marker)}
            torch.save(content, file, _use_new_zipfile_serialization="legacy" not in form)
    with pytest.raises(DataError) as error:
        fit(open_data(path), X)
    assert "\n" not in str(error.value)
    assert not marker.exists()


def test_a_torch_file_that_unpacks_to_much_costs_no_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "_MOST_UNPACKED", 1 << 20)
    torch.save({"x": torch.zeros(2)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt", "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data/1", bytes(1 << 22))
    with pytest.raises(DataError, match="unpacks to 4 MiB, and torch leaves tensors uncompressed"):
        open_data(tmp_path / "a.pt")


def test_an_archive_that_unpacks_to_much_is_not_walked_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored, "_MUCH_BYTES", 1 << 20)
    for name, array in (("zeros", np.zeros((1 << 19, 3), np.float32)), ("few", np.zeros((1 << 10, 3), np.float32))):
        with (tmp_path / name).open("wb") as file:
            np.savez_compressed(file, x=array)
    assert fit(open_data(tmp_path / "few"), X).samples == 1 << 10
    with pytest.raises(DataError, match=r"unpacks to 0\.0 GB, \d{3,4} times its size"):
        open_data(tmp_path / "zeros")


@pytest.mark.parametrize(
    "shape", ["(1000000000, 3)", "(-1, 3)", "(2305843009213693952, 3)", "(4611686018427387904,) * 9"]
)
def test_an_array_that_claims_more_than_it_has(tmp_path: Path, shape: str) -> None:
    text = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    content = b"\x93NUMPY\x01\0" + len(text).to_bytes(2, "little") + text + bytes(48)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("x.npy", content)
    for data in (content, buffer.getvalue()):
        (tmp_path / "x").write_bytes(data)
        with pytest.raises(DataError, match="cannot be read"):
            fit(open_data(tmp_path / "x"), X)


@pytest.mark.parametrize("header", ["{'descr': '<f4', (", "{1: 2, 'descr': 3, 'shape': 4}", "[", "{'shape': (2,)}"])
def test_a_damaged_header_is_one_line(tmp_path: Path, header: str) -> None:
    text = f"{header:<118}".encode()
    (tmp_path / "a.npy").write_bytes(b"\x93NUMPY\x01\0" + len(text).to_bytes(2, "little") + text + bytes(64))
    with pytest.raises(DataError, match=r"its header is damaged .*; save it again") as error:
        open_data(tmp_path / "a.npy")
    assert "\n" not in str(error.value)


def test_tensors_that_numpy_has_not_are_one_line(tmp_path: Path) -> None:
    torch.save({"x": torch.zeros(2, dtype=torch.bfloat16)}, tmp_path / "a.pt")
    with pytest.raises(DataError, match=r"tensors that numpy has not .*; save float32"):
        open_data(tmp_path / "a.pt")


def test_samples_are_numbered_or_not(tmp_path: Path) -> None:
    for name in ("x/last", f"x/{10**12}"):
        np.savez(tmp_path / "a.npz", **{"x/0": np.ones(3), name: np.ones(3)})
        with pytest.raises(DataError, match=rf"has '{name}' beside samples that are numbered"):
            fit(open_data(tmp_path / "a.npz"), X)


def test_what_only_is_called_an_image_is_not_run_or_waited_for(tmp_path: Path) -> None:
    """Pillow gives PostScript to a program that runs it, whatever the file is called."""
    script, pipe, long = (tmp_path / f"{name}.png" for name in ("script", "pipe", "long"))
    whites = tmp_path / "whites.tiff"
    script.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n(marker) (w) file closefile\n%%EOF")
    os.mkfifo(pipe)
    Image.new("1", (1, 1 << 16)).save(long)
    Image.new("F", (9, 9)).save(whites)
    refused = {
        long: "of 1 x 65536 pixels takes 128 x 8388608",
        pipe: "is no file",
        script: "cannot identify image file",
        whites: "does not say what is white",
    }
    for path, words in refused.items():
        with pytest.raises(DataError, match=words):
            fit(open_data(tmp_path, ImageOptions(128, (0.5,) * 3, (0.5,) * 3)), [InputSpec("x", "float32", None)])
        path.unlink()


def test_a_damaged_image_says_nothing_but_its_name(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "a.tiff")
    whole = (tmp_path / "a.tiff").read_bytes()
    source = open_data(tmp_path, ImageOptions(8, (0.5,) * 3, (0.5,) * 3))
    for cut in range(1, len(whole), 29):
        (tmp_path / "a.tiff").write_bytes(whole[:cut] + bytes(len(whole) - cut) if cut % 2 else whole[:cut])
        with contextlib.suppress(DataError):
            fit(source, [InputSpec("x", "float32", ("n", 3, 8, 8))])
    assert capfd.readouterr().err == ""


def test_a_tensor_that_repeats_a_few_bytes_for_hours_is_not_walked_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stored, "_MUCH_BYTES", 1 << 20)
    torch.save({"x": torch.zeros(1).expand(4, 3)}, tmp_path / "few.pt")
    torch.save({"x": torch.zeros(1).expand(10**10, 3)}, tmp_path / "many.pt")
    assert fit(open_data(tmp_path / "few.pt"), X).samples == 4
    with pytest.raises(DataError, match=r"unpacks to 120\.0 GB, \d+ times its size"):
        open_data(tmp_path / "many.pt")
