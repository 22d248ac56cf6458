"""Files that are damaged or mean harm: one line about them, no code run, no memory spent."""

from __future__ import annotations

import json
import os
import pickle
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_files import KINDS, model_files, refusal, saved, zipped

from ptq.errors import PtqError
from ptq.model.files import Kind, detect

MARKER = "the bomb went off"


class Bomb:
    """Unpickling it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (os.system, (f"echo '{MARKER}' > {self.path}",))


def complaint(path: Path) -> str:
    """What is said about a file that may be whole or not."""
    try:
        detect(path)
    except PtqError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("name", [n for n in KINDS if n != "old program"])
def test_a_cut_file_is_never_taken_for_whole(name: str, tmp_path: Path) -> None:
    """A legacy torch.save file has its weights behind all that is looked at; `capture` finds them missing."""
    _, data = model_files()[name]
    path = tmp_path / "model.pt"
    kept = len(data) // 8 if "legacy" in name else len(data)
    for length in sorted({1, 2, 7, 8, 9, 16, *range(20, 513, 41), *np.linspace(1, kept - 1, 23, dtype=int).tolist()}):
        if length < kept:
            path.write_bytes(data[:length])
            refusal(path)


def test_cut_files_are_named_for_what_they_were(tmp_path: Path) -> None:
    for name, words in (
        ("onnx", "an ONNX model cut short"),
        ("state", "zip archive that is cut short"),
        ("program", "zip archive that is cut short"),
        ("safetensors", "safetensors file cut short"),
    ):
        path = tmp_path / name
        path.write_bytes(model_files()[name][1][:-20])
        assert words in refusal(path)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150)
@given(st.data())
def test_damage_gives_a_kind_or_one_line(tmp_path: Path, data: st.DataObject) -> None:
    whole = bytearray(model_files()[data.draw(st.sampled_from(KINDS))][1])
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
