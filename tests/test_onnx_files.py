"""ONNX files and their external data: found from anywhere, and never outside the folder of the model."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from tiny_models import matmul_onnx

from ptq.errors import ModelError, ModelFileError, OutputError
from ptq.model.capture import CaptureOptions, capture
from ptq.model.session import Session
from ptq.model.validity import check_valid
from ptq.pipeline import run
from ptq.pipeline.job import Job
from ptq.pipeline.stages import Stages
from ptq.recipe import Recipe

DEFAULTS = CaptureOptions()


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def external(folder: Path, location: str, length: int | str = 48) -> Path:
    proto = matmul_onnx()
    tensor = proto.graph.initializer[0]
    (folder / "weights.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", "0"), ("length", str(length))):
        tensor.external_data.add(key=key, value=value)
    return written(folder / "model.pt", proto.SerializeToString())


def test_onnx_with_external_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = external(tmp_path, "weights.bin")
    monkeypatch.chdir(tmp_path)
    for where in (path, Path(path.name)):
        graph = capture(where, DEFAULTS)
        monkeypatch.chdir("/")  # the weights are found from anywhere
        (got,) = Session(graph_in_memory(graph)).run({"x": np.eye(4, dtype=np.float32)})
        np.testing.assert_array_equal(got, np.arange(12, dtype=np.float32).reshape(4, 3) / 8)
        monkeypatch.chdir(tmp_path)


def test_the_external_data_is_no_output(tmp_path: Path) -> None:
    model, data = external(tmp_path, "weights.bin"), tmp_path / "weights.bin"
    before = data.read_bytes()
    with pytest.raises(OutputError, match="is the input"):
        run(Job(model, output=data, overwrite=True), Recipe(), Stages())
    assert data.read_bytes() == before


def graph_in_memory(graph: object) -> bytes:
    from onnx_ir import external_data, to_proto

    return to_proto(external_data.load_to_model(graph)).SerializeToString()


@pytest.mark.parametrize(
    ("location", "length", "words"),
    [
        ("gone.bin", 48, "gone.bin, which is missing; put it next to the model"),
        ("../weights.bin", 48, "outside the folder of the model"),
        ("/etc/passwd", 48, "outside the folder of the model"),
        ("..\\weights.bin", 48, "outside the folder of the model"),
        ("C:\\weights.bin", 48, "outside the folder of the model"),
        ("", 48, "outside the folder of the model"),
        ("weights.bin", 49, "'w' ends behind the end of"),
        ("weights.bin", 47, "'w' of shape [4, 3] takes 48 bytes, the file holds 47 for it"),
        ("weights.bin", 0, "takes 48 bytes, the file holds 0 for it"),
        ("weights.bin", "-1", "has the length '-1' in its file, no number"),
        ("weights.bin", "4_8", "has the length '4_8'"),
        ("weights.bin", "9" * 5000, "has the length '99999999999999999999'"),
        ("a/../../weights.bin", 48, "outside the folder of the model"),
        ("./../weights.bin", 48, "outside the folder of the model"),
        ("C:weights.bin", 48, "outside the folder of the model"),
        ("\\\\server\\share\\weights.bin", 48, "outside the folder of the model"),
        ("weights.bin\0.txt", 48, "outside the folder of the model"),
        ("a" * 300, 48, "which is"),
        (".", 48, "which is missing"),
    ],
)
def test_onnx_whose_external_data_is_not_there(location: str, length: int | str, words: str, tmp_path: Path) -> None:
    path = external(tmp_path, location, length)
    with pytest.raises(ModelFileError) as caught:
        capture(path, DEFAULTS)
    assert words in str(caught.value)


@pytest.mark.parametrize("what", ["file", "folder", "circle"])
def test_external_data_that_links_lead_elsewhere(what: str, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "here").mkdir()
    path = external(tmp_path / "here", "sub/weights.bin" if what == "folder" else "data.bin")
    (tmp_path / "here" / "weights.bin").rename(tmp_path / "elsewhere" / "weights.bin")
    if what == "folder":
        (tmp_path / "here" / "sub").symlink_to(tmp_path / "elsewhere")
    else:
        target = tmp_path / "elsewhere" / "weights.bin" if what == "file" else tmp_path / "here" / "data.bin"
        (tmp_path / "here" / "data.bin").symlink_to(target)
    words = "is no path here|is missing" if what == "circle" else "outside the folder of the model"
    with pytest.raises(ModelFileError, match=words):
        capture(path, DEFAULTS)


def test_links_beside_each_other_are_followed(tmp_path: Path) -> None:
    """As a cache of downloads has them: the model and its data are links into one folder."""
    (tmp_path / "blobs").mkdir()
    (tmp_path / "snapshot").mkdir()
    external(tmp_path / "blobs", "data.bin").rename(tmp_path / "blobs" / "1f0")
    (tmp_path / "blobs" / "weights.bin").rename(tmp_path / "blobs" / "2a7")
    (tmp_path / "snapshot" / "model.onnx").symlink_to("../blobs/1f0")
    (tmp_path / "snapshot" / "data.bin").symlink_to("../blobs/2a7")
    graph = capture(tmp_path / "snapshot" / "model.onnx", DEFAULTS)
    (got,) = Session(graph_in_memory(graph)).run({"x": np.eye(4, dtype=np.float32)})
    assert got[3, 2] == 11 / 8


def test_offsets_are_numbers(tmp_path: Path) -> None:
    path = external(tmp_path, "weights.bin")
    proto = onnx.load(path, load_external_data=False)
    entry = next(entry for entry in proto.graph.initializer[0].external_data if entry.key == "offset")
    for offset, words in (("one", "the offset 'one'"), ("4", "ends behind the end"), (str(1 << 62), "ends behind")):
        entry.value = offset
        with pytest.raises(ModelFileError, match=words):
            capture(written(path, proto.SerializeToString()), DEFAULTS)


FIELDS = ("raw_data", "float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")


def with_weight(kind: int, dims: list[int], **data: object) -> onnx.ModelProto:
    proto = matmul_onnx()
    tensor = proto.graph.initializer[0]
    for field in (*FIELDS, "dims"):
        tensor.ClearField(field)
    tensor.data_type = kind
    tensor.dims.extend(dims)
    for field, entries in data.items():
        setattr(tensor, field, entries) if field == "raw_data" else getattr(tensor, field).extend(entries)
    return proto


TYPES = onnx.TensorProto
LYING = {
    "too short": (with_weight(1, [4, 3], raw_data=bytes(40)), "takes 48 bytes, the file holds 40 for it"),
    "too long": (with_weight(1, [4, 3], raw_data=bytes(49)), "takes 48 bytes, the file holds 49 for it"),
    "nothing": (with_weight(1, [10**9, 3]), r"of shape \[1000000000, 3\] takes 3000000000 numbers, the file holds 0"),
    "beyond 64 bits": (with_weight(1, [2**62] * 9, raw_data=b"1234"), "the file holds 4 for it"),
    "too few numbers": (with_weight(1, [4, 3], float_data=[1.0] * 7), "takes 12 numbers, the file holds 7"),
    "half a number": (with_weight(TYPES.COMPLEX64, [2], float_data=[1.0] * 3), "takes 4 numbers, the file holds 3"),
    "too few halves of bytes": (with_weight(TYPES.INT4, [5], int32_data=[1, 1]), "takes 3 numbers, the file holds 2"),
    "below zero": (with_weight(1, [-4, 3], raw_data=bytes(48)), r"has shape \[-4, 3\], sizes are at least 0"),
    "no type": (with_weight(0, [4, 3], raw_data=bytes(48)), "type 0, which ONNX does not have"),
    "an unknown type": (with_weight(99, [4, 3], raw_data=bytes(48)), "type 99, which ONNX does not have"),
    "text in bytes": (with_weight(TYPES.STRING, [4, 3], raw_data=bytes(48)), "is text in the form of numbers"),
}


@pytest.mark.parametrize("name", LYING)
def test_a_weight_has_what_its_shape_takes(name: str) -> None:
    proto, words = LYING[name]
    with pytest.raises(ModelFileError, match=words) as caught:
        capture(proto, DEFAULTS)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "proto",
    [
        with_weight(1, [4, 3], float_data=[1.0] * 12),
        with_weight(1, [0, 3]),
        with_weight(TYPES.COMPLEX64, [2], float_data=[1.0] * 4),
        with_weight(TYPES.FLOAT16, [3], int32_data=[1] * 3),
        with_weight(TYPES.INT4, [5], int32_data=[1] * 3),
        with_weight(TYPES.UINT2, [5], raw_data=bytes(2)),
        with_weight(TYPES.STRING, [2], string_data=[b"a", b"b"]),
        with_weight(TYPES.UINT32, [2], uint64_data=[1, 2]),
    ],
)
def test_every_way_to_store_a_weight_is_taken(proto: onnx.ModelProto) -> None:
    """That the product is not one of such a type is for ONNX Runtime to say."""
    check_valid(proto, None)
    assert ir.from_proto(proto).graph.initializers["w"].const_value is not None


def test_a_model_in_memory_is_judged_too() -> None:
    proto = with_weight(1, [4, 3], float_data=[1.0] * 12)
    proto.graph.node[0].input[0] = "nowhere"
    with pytest.raises(ModelError, match=r"the model in memory: ONNX Runtime .* does not load the graph: .*nowhere"):
        capture(proto, DEFAULTS)


def test_external_data_of_a_branch_is_looked_at_too(tmp_path: Path) -> None:
    weight = onnx.numpy_helper.from_array(np.zeros(2, np.float32), "inner")
    weight.ClearField("raw_data")
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="gone.bin")
    output = onnx.helper.make_tensor_value_info("inner", 1, [2])
    branch = onnx.helper.make_graph([], "branch", [], [output], [weight])
    node = onnx.helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    condition = onnx.helper.make_tensor_value_info("c", onnx.TensorProto.BOOL, [])
    result = onnx.helper.make_tensor_value_info("y", 1, [2])
    proto = onnx.helper.make_model(onnx.helper.make_graph([node], "g", [condition], [result]))
    with pytest.raises(ModelFileError, match=r"'inner' lies in .*gone.bin, which is missing"):
        capture(written(tmp_path / "model.onnx", proto.SerializeToString()), DEFAULTS)


def test_onnx_in_memory_is_not_changed() -> None:
    proto = matmul_onnx()
    before = proto.SerializeToString()
    graph = capture(proto, DEFAULTS)
    assert graph.graph.inputs[0].name == "x"
    assert proto.SerializeToString() == before
