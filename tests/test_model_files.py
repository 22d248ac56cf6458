"""Telling what a file holds: every kind under misleading names, every wrong file, damage, and bombs."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import socket
import struct
import tarfile
import tracemalloc
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save as save_safetensors
from tiny_models import Convolutions, Multilayer, matmul_onnx, seeded

from ptq.errors import ModelFileError, PtqError
from ptq.model.files import Kind, detect

MARKER = "the bomb went off"


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, (f"echo '{MARKER}' > {self.path}",))


def saved(content: object, **options: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer, **options)
    return buffer.getvalue()


def zipped(members: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def program() -> bytes:
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(seeded(Multilayer), (torch.zeros(2, 4),)), buffer)
    return buffer.getvalue()


def script() -> bytes:
    buffer = io.BytesIO()
    torch.jit.save(torch.jit.trace(seeded(Multilayer), torch.zeros(2, 4)), buffer)
    return buffer.getvalue()


def external_onnx() -> bytes:
    proto = matmul_onnx()
    tensor = proto.graph.initializer[0]
    tensor.data_location = 1
    tensor.external_data.add(key="location", value="weights.bin")
    tensor.ClearField("raw_data")
    return proto.SerializeToString()


@pytest.fixture(scope="module")
def files() -> dict[str, tuple[Kind, bytes]]:
    module = seeded(Convolutions)
    state = module.state_dict()
    legacy = {"_use_new_zipfile_serialization": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, its files are not gone
        scripted = script()
    return {
        "onnx": (Kind.ONNX, matmul_onnx().SerializeToString()),
        "external onnx": (Kind.ONNX, external_onnx()),
        "program": (Kind.EXPORTED_PROGRAM, program()),
        "old program": (
            Kind.EXPORTED_PROGRAM,
            zipped({"serialized_exported_program.json": b"{}", "version": b"8.2"}),
        ),
        "script": (Kind.TORCHSCRIPT, scripted),
        "module": (Kind.PICKLED_MODULE, saved(module)),
        "legacy module": (Kind.PICKLED_MODULE, saved(module, **legacy)),
        "protocol 4 module": (Kind.PICKLED_MODULE, saved(module, pickle_protocol=4)),
        "legacy protocol 4 module": (Kind.PICKLED_MODULE, saved(module, pickle_protocol=4, **legacy)),
        "state": (Kind.STATE_DICT, saved(state)),
        "legacy state": (Kind.STATE_DICT, saved(state, **legacy)),
        "protocol 4 state": (Kind.STATE_DICT, saved(state, pickle_protocol=4)),
        "checkpoint": (
            Kind.STATE_DICT,
            saved({"model": state, "epoch": 3, "loss": 0.5, "note": "x", "best": np.float64(2), "sizes": [(1, 2)]}),
        ),
        "many types": (
            Kind.STATE_DICT,
            saved({f"{t}": torch.zeros(2, dtype=t) for t in (torch.bfloat16, torch.int8, torch.bool, torch.float64)}),
        ),
        "parameters": (Kind.STATE_DICT, saved(dict(module.named_parameters()))),
        "safetensors": (Kind.SAFETENSORS, save_safetensors(state, {"format": "pt"})),
    }


KINDS = [
    *("onnx", "external onnx", "program", "old program", "script", "safetensors"),
    *("module", "legacy module", "protocol 4 module", "legacy protocol 4 module"),
    *("state", "legacy state", "protocol 4 state", "checkpoint", "many types", "parameters"),
]


def test_every_file_is_tried(files: dict[str, tuple[Kind, bytes]]) -> None:
    assert sorted(KINDS) == sorted(files)


@pytest.mark.parametrize("suffix", [".onnx", ".pt", ".txt", ".safetensors", ""])
@pytest.mark.parametrize("name", KINDS)
def test_the_kind_is_in_the_file(files: dict[str, tuple[Kind, bytes]], name: str, suffix: str, tmp_path: Path) -> None:
    kind, data = files[name]
    path = tmp_path / f"model{suffix}"
    path.write_bytes(data)
    assert detect(path) is kind


def refusal(path: Path) -> str:
    with pytest.raises(ModelFileError) as caught:
        detect(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.count(str(path)) == 1
    return message


def complaint(path: Path) -> str:
    """What is said about a file that may be whole or not."""
    try:
        detect(path)
    except PtqError as error:
        return str(error)
    return ""


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


@pytest.mark.parametrize("name", [n for n in KINDS if n != "old program"])
def test_a_cut_file_is_never_taken_for_whole(files: dict[str, tuple[Kind, bytes]], name: str, tmp_path: Path) -> None:
    """A legacy torch.save file has its weights behind all that is looked at; `capture` finds them missing."""
    _, data = files[name]
    path = tmp_path / "model.pt"
    kept = len(data) // 8 if "legacy" in name else len(data)
    for length in sorted({1, 2, 7, 8, 9, 16, *range(20, 513, 41), *np.linspace(1, kept - 1, 23, dtype=int).tolist()}):
        if length < kept:
            path.write_bytes(data[:length])
            refusal(path)


def test_cut_files_are_named_for_what_they_were(files: dict[str, tuple[Kind, bytes]], tmp_path: Path) -> None:
    for name, words in (
        ("onnx", "an ONNX model cut short"),
        ("state", "zip archive that is cut short"),
        ("program", "zip archive that is cut short"),
        ("safetensors", "safetensors file cut short"),
    ):
        path = tmp_path / name
        path.write_bytes(files[name][1][:-20])
        assert words in refusal(path)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(st.data())
def test_damage_gives_a_kind_or_one_line(
    files: dict[str, tuple[Kind, bytes]], tmp_path: Path, data: st.DataObject
) -> None:
    whole = bytearray(files[data.draw(st.sampled_from(KINDS))][1])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(
            st.one_of(st.integers(0, len(whole) - 1), st.integers(0, 200), st.integers(1, 60).map(int.__neg__))
        )
        whole[at % len(whole)] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged"
    path.write_bytes(whole)
    assert "\n" not in complaint(path)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(st.sampled_from([b"", b"\x80\x02", b"PK\x03\x04", b"\x08\x08", b"\x10\0\0\0\0\0\0\0{"]), st.binary(max_size=600))
def test_any_bytes_give_a_kind_or_one_line(tmp_path: Path, start: bytes, rest: bytes) -> None:
    path = tmp_path / "bytes"
    path.write_bytes(start + rest)
    assert "\n" not in complaint(path)


@pytest.mark.parametrize("form", ["zip", "legacy", "zip, protocol 4", "pickle", "pickle, protocol 5", "nested"])
def test_a_bomb_is_looked_at_and_not_set_off(form: str, tmp_path: Path) -> None:
    marker, path = tmp_path / "marker", tmp_path / "model.pt"
    bomb = Bomb(marker)
    content = {"state_dict": {"weight": torch.zeros(2)}, "extra": [bomb]} if form == "nested" else bomb
    if form.startswith("pickle"):
        path.write_bytes(pickle.dumps(content, 5 if "5" in form else 2))
        assert "system" in refusal(path)
    else:
        options = {"_use_new_zipfile_serialization": form != "legacy", "pickle_protocol": 4 if "4" in form else 2}
        path.write_bytes(saved(content, **options))
        assert detect(path) is Kind.PICKLED_MODULE
    assert not marker.exists()
    if "pickle" in form:
        pickle.loads(path.read_bytes())  # the marker can appear at all
        assert marker.exists()


def test_lying_archives_cost_no_memory(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    huge = b"\0" * (1 << 20)
    bombs = {
        "a long string": zipped({"m/data.pkl": b"\x80\x02X\0\0\0\x08" + b"a" * (1 << 27)}, zipfile.ZIP_DEFLATED),
        "compressed weights": zipped({f"m/data/{i}": huge for i in range(300)}, zipfile.ZIP_DEFLATED),
        "a length of 2 GiB": zipped({"m/data.pkl": b"\x80\x02X" + struct.pack("<I", 1 << 31) + b"abc"}),
        "a length of 2 EiB": zipped({"m/data.pkl": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 61) + b"abc"}),
        "an endless line": zipped({"m/data.pkl": b"\x80\x02c" + b"a" * (20 << 20)}),
        "a huge header": struct.pack("<Q", 1 << 40) + b"{" + b" " * 99,
    }
    for what, data in bombs.items():
        path.write_bytes(data)
        tracemalloc.start()
        refusal(path)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < 100 << 20, what


def test_a_pickle_of_too_many_opcodes_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(zipped({"m/data.pkl": b"\x80\x02" + b"N" * (1 << 24)}, zipfile.ZIP_DEFLATED))
    assert "opcodes" in refusal(path)


def test_an_archive_that_holds_a_name_twice_is_refused(tmp_path: Path) -> None:
    """Two readers may see two different members."""
    path = tmp_path / "model.pt"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("m/data.pkl", pickle.dumps({}))
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("m/data.pkl", pickle.dumps(Path("a")))
    assert "a name twice" in refusal(path)


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    """Eight gigabytes of zeros, a hole in the disk, as the graph of an ONNX model and as safetensors."""
    size = 8 << 30
    path = tmp_path / "large"
    header = json.dumps({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}).encode()
    for start, kind in (
        (b"\x08\x08\x3a\x80\x80\x80\x80\x20", Kind.ONNX),
        (struct.pack("<Q", len(header)) + header, Kind.SAFETENSORS),
    ):
        with path.open("wb") as stream:
            stream.write(start)
            stream.truncate(len(start) + size)
        assert detect(path) is kind
