"""Telling what a file holds: every kind under misleading names, every wrong file by what it is."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import socket
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from model_files import KINDS, model_files, refusal, zipped
from PIL import Image
from tiny_models import matmul_onnx

from ptq.errors import ModelFileError
from ptq.model.files import detect


def test_every_file_is_tried() -> None:
    assert sorted(KINDS) == sorted(model_files())


@pytest.mark.parametrize("suffix", [".onnx", ".pt", ".txt", ".safetensors", ""])
@pytest.mark.parametrize("name", KINDS)
def test_the_kind_is_in_the_file(name: str, suffix: str, tmp_path: Path) -> None:
    kind, data = model_files()[name]
    path = tmp_path / f"model{suffix}"
    path.write_bytes(data)
    assert detect(path) is kind


def npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, x=np.zeros(3))
    return buffer.getvalue()


def image(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, kind)
    return buffer.getvalue()


def tar() -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.onnx"))
    return buffer.getvalue()


def npy() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    return buffer.getvalue()


WRONG: dict[str, tuple[Callable[[], bytes], str]] = {
    "empty": (lambda: b"", "empty"),
    "npz": (npz, "NumPy archive (.npz)"),
    "npy": (npy, "NumPy array (.npy)"),
    "png": (lambda: image("PNG"), "PNG"),
    "jpeg": (lambda: image("JPEG"), "JPEG"),
    "webp": (lambda: image("WEBP"), "WebP"),
    "json": (lambda: b'  {"a": [1, 2]}', "JSON"),
    "longer json": (lambda: json.dumps({f"key {i}": i for i in range(99)}, indent=1).encode(), "JSON"),
    "html": (lambda: b"<!DOCTYPE html><html>", "HTML"),
    "text": (lambda: "naïve café\n".encode() * 80, "a text file"),
    "blank": (lambda: b"\n\n \n", "blank text"),
    "gzip": (lambda: gzip.compress(b"model"), "gzip"),
    "tar": (tar, "tar archive"),
    "lfs": (lambda: b"version https://git-lfs.github.com/spec/v1\noid sha256:1\nsize 2\n", "git lfs pull"),
    "gguf": (lambda: b"GGUF\x03\0\0\0", "GGUF"),
    "hdf5": (lambda: b"\x89HDF\r\n\x1a\n\0\0", "HDF5"),
    "tflite": (lambda: b"\x1c\0\0\0TFL3\x14\0\0\0", "TensorFlow Lite"),
    "saved model": (lambda: b"\x08\x01\x12\x04abcd", "SavedModel"),
    "keras": (lambda: zipped({"config.json": b"{}", "model.weights.h5": b""}), "Keras"),
    "zip": (lambda: zipped({"a.txt": b"a"}), "zip archive with no model"),
    "empty zip": (lambda: zipped({}), "empty zip"),
    "pickle": (lambda: pickle.dumps(Path("a")), "a pickle not written by torch.save (of pathlib."),
    "bytes": (lambda: bytes(range(129, 256)), "no format that is known"),
    "one byte": (lambda: b"\x08", "no format that is known"),
    "compiled": (lambda: zipped({"m/archive_format": b"pt2", "m/data/aotinductor/m.so": b""}), "AOTInductor"),
    "graphless": (lambda: b"\x08\x0a\x12\x04ptq!\x42\x02\x10\x15", "without a graph"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_file_is_named(name: str, tmp_path: Path) -> None:
    make, words = WRONG[name]
    path = tmp_path / "model.onnx"
    path.write_bytes(make())
    message = refusal(path)
    assert words in message
    assert "; ptq reads ONNX" in message


def test_paths_that_hold_no_file(tmp_path: Path) -> None:
    assert "does not exist" in refusal(tmp_path / "none")
    assert "a folder; ptq reads" in refusal(tmp_path)
    (tmp_path / "net.pt2").touch()
    assert "name the file in it: net.pt2" in refusal(tmp_path)
    (tmp_path / "saved_model.pb").touch()
    assert "SavedModel folder" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    assert "named pipe" in refusal(tmp_path / "pipe")
    assert "character device" in refusal(Path(os.devnull))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    assert "cannot be read" in refusal(tmp_path / "loop")
    assert "cannot be read" in refusal(tmp_path / ("a" * 300))
    assert "cannot be read" in refusal(tmp_path / "net.pt2" / "inside")
    with socket.socket(socket.AF_UNIX) as listener, pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)  # the path of a socket has to be short
        listener.bind("socket")
        assert "a socket" in refusal(tmp_path / "socket")
    with pytest.raises(ModelFileError, match="null character"):
        detect(Path("a\0b"))


def test_a_file_that_may_not_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(matmul_onnx().SerializeToString())
    path.chmod(0)
    if os.access(path, os.R_OK):  # the superuser may read everything
        monkeypatch.setattr(Path, "open", lambda *_: (_ for _ in ()).throw(PermissionError(13, "denied")))
    assert "may not be read" in refusal(path)
