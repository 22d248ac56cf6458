"""A model larger than the memory there is: one weight at a time is in it, whatever is done with all."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import many_layers
import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from command import Command
from onnx import TensorProto, helper
from schemes import ALL

from ptq.errors import ModelFileError, OutputError
from ptq.methods.multipoint import Multipoint
from ptq.model.capture import CaptureOptions, capture
from ptq.model.graph import Model
from ptq.model.save import digest, serialized, write
from ptq.model.streamed import Spool, Streamed
from ptq.model.wire import data_files
from ptq.pipeline.written import Written
from ptq.solve import Curvature

LIMITED = """
import resource, sys
import cli, onnxscript.optimizer, onnxscript.rewriter.rules.common, onnxscript.version_converter
import ptq.pipeline, ptq.report, torch

def size() -> int:
    return 1024 * int(next(line for line in open("/proc/self/status") if line.startswith("VmSize:")).split()[1])

limit = size() + int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
cli.main(sys.argv[2:])
"""


def run_with(spare: int, *arguments: object, cache: Path, script: str = LIMITED) -> subprocess.CompletedProcess[str]:
    """The command line in a process whose address space grows by no more than that.

    The C library has one heap there: for each of its threads it would set 64 MB of addresses aside, used or not.
    """
    told = {"PTQ_CACHE": str(cache), "PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}
    command = [sys.executable, "-c", script, str(spare), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=told, check=False)


@pytest.mark.long
@pytest.mark.parametrize("method", ["rtn", "multipoint"])
def test_memory_is_that_of_one_weight(tmp_path: Path, method: str) -> None:
    """With less than half of the network in memory, and 4 weights and 500 MB at most (issue 7)."""
    model, output = tmp_path / "many.onnx", tmp_path / "many.int4.onnx"
    layers, width = 80, 2048
    weight = many_layers.write(model, layers, width)
    spare = 4 * weight + 500_000_000
    assert layers * weight > 2 * spare
    recipe = ("--method", method, "--weights", "int4", "--group", "32")
    done = run_with(spare, "quantize", model, *recipe, "-o", output, cache=tmp_path / "cache")
    assert done.returncode == 0, done.stderr
    assert "WARNING  the file was not loaded, it takes about" in done.stdout
    assert "not loaded" in done.stdout.splitlines()[-1]
    graph = onnx.load(output).graph
    assert sum(node.name.startswith("layer") for node in graph.node) == layers


ROUNDED = LIMITED.replace(
    "cli.main",
    """
import ptq.pipeline.build
ptq.pipeline.build.lower = lambda *_: sys.exit(print("all layers are rounded"))
cli.main""",
)


@pytest.mark.long
def test_memory_of_calibration_is_that_of_one_block(tmp_path: Path) -> None:
    """With less than half of what weights and second moments take together, up to where all layers are rounded."""
    model, data = tmp_path / "many.onnx", tmp_path / "data.npz"
    layers, width = 100, 1024
    weight = many_layers.write(model, layers, width, size=width**-0.5)
    np.savez(data, x=np.random.default_rng(1).standard_normal((64, 2, width)).astype(np.float32))
    spare, moment = 600_000_000, 8 * width**2
    assert layers * (weight + moment) > 2 * spare
    recipe = ("--method", "gptq", "--weights", "int4", "--activations", "none", "-o", tmp_path / "many.int4.onnx")
    done = run_with(spare, "quantize", model, "--data", data, *recipe, cache=tmp_path / "cache", script=ROUNDED)
    assert (done.returncode, done.stdout) == (0, "all layers are rounded\n"), done.stderr
    assert not [*(tmp_path / "cache").glob("*.unfinished")]


@pytest.mark.long
@pytest.mark.parametrize("spare", range(5, 300, 35))
def test_memory_that_runs_out_is_one_line(tmp_path: Path, spare: int) -> None:
    """Whatever runs out of it: Python, torch, protobuf, ONNX Runtime, the start of a thread or of a process."""
    model, data, output = tmp_path / "many.onnx", tmp_path / "data.npz", tmp_path / "many.int4.onnx"
    many_layers.write(model, 8, 1024, size=1 / 32)
    np.savez(data, x=np.random.default_rng(1).standard_normal((64, 2, 1024)).astype(np.float32))
    recipe = ("--method", "gptq", "--weights", "int4", "-o", output)
    done = run_with(spare * 1_000_000, "quantize", model, "--data", data, *recipe, cache=tmp_path / "cache")
    if done.returncode == 0:
        onnx.checker.check_model(str(output))
        return
    told = r"ptq: (out of memory; nothing was written, |the second moment of .* does not fit into memory: ).*\n"
    assert (done.returncode, re.fullmatch(told, done.stderr) is not None) == (1, True), done.stderr
    assert not output.exists()


def peak(folder: Path, layers: int, width: int, *recipe: str) -> int:
    """The memory that a process of its own has at most until the file is written."""
    folder.mkdir()
    many_layers.write(folder / "tiny.onnx", layers, width)
    command = [sys.executable, "benchmarks/scale.py", str(folder), "--size", "tiny", "--one", *recipe]
    told = {"PTQ_CACHE": str(folder / "cache"), "PYTHONPATH": ":".join(sys.path), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=told, check=False, cwd=Path(__file__).parents[1])
    assert done.returncode == 0, done.stderr
    return int(json.loads(done.stdout)["peak_bytes"])


@pytest.mark.long
def test_memory_of_all_sizes_of_a_weight_is_that_of_one_weight(tmp_path: Path) -> None:
    """Six planes of each, and steps from size to size of each row; some of what is read lately is held besides."""
    layers, width, held = 120, 1024, 250_000_000
    few, many = (peak(tmp_path / str(count), count, width, "--method", "multipoint") for count in (1, layers))
    assert layers * 4 * width**2 > 2 * held
    assert many - few < held


@pytest.mark.parametrize("scheme", ["int4-channel", "int4-32", "uint4-32"])
def test_an_outline_takes_next_to_nothing_whatever_rungs_rows_are_on(scheme: str) -> None:
    weight = torch.randn(1, 40, 256, generator=torch.Generator().manual_seed(0))
    ladder = Multipoint(ALL[scheme], rounding="nearest").ladder(weight, Curvature.unknown(1, 256))
    rung = torch.arange(40) % len(ladder.rungs)
    whole, outline = ladder.pick(rung), ladder.outlined().pick(rung)
    assert len(rung.unique()) > 1
    assert outline.storage_bits == whole.storage_bits
    assert outline.mixes == whole.mixes
    assert sum(term.values.untyped_storage().nbytes() for term in outline.terms) == len(outline.terms)


def test_weights_are_read_anew_and_never_kept(tmp_path: Path) -> None:
    path = tmp_path / "many.onnx"
    many_layers.write(path, 3, 16)
    model = Model.of(capture(path, CaptureOptions()))
    tensors = [value.const_value for value in model.graph.graph.initializers.values()]
    assert [type(tensor) for tensor in tensors] == [Streamed] * 3
    first = model.initializer("layer1.weight")
    np.testing.assert_array_equal(first, np.fromfile(f"{path}.data", np.float32, 256, offset=4096).reshape(16, 16))
    assert model.initializer("layer1.weight") is not first
    Path(f"{path}.data").write_bytes(b"short")
    with pytest.raises(ModelFileError, match=r"ends behind the end of .*many.onnx.data, which has changed"):
        model.initializer("layer1.weight")
    Path(f"{path}.data").unlink()
    with pytest.raises(ModelFileError, match=r"many.onnx.data, which has the weight 'layer1.weight': No such file"):
        model.initializer("layer1.weight")


def test_an_older_opset_keeps_its_weights(tmp_path: Path) -> None:
    path = tmp_path / "many.onnx"
    many_layers.write(path, 2, 16)
    proto = onnx.load(path, load_external_data=False)
    proto.opset_import[0].version = 13
    onnx.save(proto, path)
    assert Model.of(capture(path, CaptureOptions())).initializer("layer1.weight").shape == (16, 16)


def test_small_weights_and_whole_numbers_beside_a_model(tmp_path: Path, ptq: Command) -> None:
    """What stands in a file of its own is as good as what does not, whatever its size and type."""
    path, inside = tmp_path / "beside.onnx", tmp_path / "inside.onnx"
    many_layers.write(path, 2, 16)
    onnx.save(onnx.load(path), inside)
    for each in (path, inside):
        assert ptq("quantize", each, "--method", "rtn", "-o", each.with_suffix(".q.onnx")).code == 0
    stored = [
        {tensor.name: tensor.raw_data for tensor in onnx.load(each.with_suffix(".q.onnx")).graph.initializer}
        for each in (path, inside)
    ]
    assert stored[0] == stored[1]


@pytest.fixture
def network(tmp_path: Path) -> Model:
    path = tmp_path / "many.onnx"
    many_layers.write(path, 3, 256)
    return Model.of(capture(path, CaptureOptions()))


def outputs(path: Path) -> np.ndarray:
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    x = np.linspace(-1, 1, 512, dtype=np.float32).reshape(1, 2, 256)
    found: list[np.ndarray] = session.run(None, {"x": x})
    return found[0]


def test_one_file_or_two_are_the_same_network(network: Model, tmp_path: Path) -> None:
    one, two = tmp_path / "one" / "m.onnx", tmp_path / "two" / "m.onnx"
    for path in (one, two):
        path.parent.mkdir()
    assert write(network, one) is None
    assert write(network, two, most_bytes=1000) == two.with_name("m.onnx.data")
    assert one.read_bytes() == serialized(network)
    assert two.stat().st_size < 2000
    onnx.checker.check_model(str(two), full_check=True)
    np.testing.assert_array_equal(outputs(one), outputs(two))
    np.testing.assert_array_equal(outputs(one), outputs(tmp_path / "many.onnx"))


def test_a_digest_is_of_the_weights_too(network: Model, tmp_path: Path) -> None:
    before = digest(network)
    assert digest(network) == before
    data = tmp_path / "many.onnx.data"
    content = bytearray(data.read_bytes())
    content[5000] ^= 1
    data.write_bytes(content)
    assert digest(network) != before


def test_what_is_spooled_is_read_from_there(network: Model) -> None:
    graph = network.graph.clone().graph
    graph.initializers["layer0.weight"].const_value = ir.tensor(np.ones((256, 256), np.float32), name="layer0.weight")
    with Spool() as spool:
        spool.take(graph)
        held = graph.initializers["layer0.weight"].const_value
        assert isinstance(held, Streamed)
        assert held.numpy().sum() == 256 * 256
    with pytest.raises(ModelFileError, match="No such file"):
        held.numpy()


def test_two_files_come_to_their_place_together(network: Model, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    written = Written.of(network, output, most_bytes=1000)
    assert {each.name for each in tmp_path.iterdir() if not each.name.startswith(".")} == {
        "many.onnx",
        "many.onnx.data",
    }
    other = tmp_path / "copy.onnx"
    written.copy(other, overwrite=False)
    written.move(output, overwrite=False)
    assert not [each for each in tmp_path.iterdir() if each.name.startswith(".")]
    expected = outputs(tmp_path / "many.onnx")
    for path in (output, other):
        np.testing.assert_array_equal(outputs(path), expected)
        assert path.with_name(f"{path.name}.data").stat().st_nlink == 1
    with pytest.raises(OutputError, match="exists"):
        Written.of(network, output, most_bytes=1000).move(output, overwrite=False)
    output.unlink()
    with pytest.raises(OutputError, match=r"out.onnx.data, where the weights of the output go, exists"):
        Written.of(network, output, most_bytes=1000).move(output, overwrite=False)


def test_one_file_over_two_leaves_no_weights_behind(network: Model, tmp_path: Path) -> None:
    output = tmp_path / "out.onnx"
    Written.of(network, output, most_bytes=1000).move(output, overwrite=False)
    Written.of(network, output).move(output, overwrite=True)
    assert not output.with_name("out.onnx.data").exists()
    Written.of(network, output, most_bytes=1000).move(output, overwrite=True)
    np.testing.assert_array_equal(outputs(output), outputs(tmp_path / "many.onnx"))


def test_a_folder_that_somebody_else_made_stays(tmp_path: Path) -> None:
    path = tmp_path / "theirs.onnx"
    path.write_bytes(b"model")
    found = Written(path, None)
    del found
    assert path.exists()


def test_files_of_weights_are_found_without_reading_weights(network: Model, tmp_path: Path) -> None:
    assert data_files(tmp_path / "many.onnx") == {tmp_path / "many.onnx.data"}
    assert write(network, tmp_path / "one.onnx") is None
    assert data_files(tmp_path / "one.onnx") == frozenset()
    (tmp_path / "none.onnx").write_bytes(b"\x07no protobuf")
    with pytest.raises(ValueError, match="protobuf"):
        data_files(tmp_path / "none.onnx")


def test_they_are_found_in_attributes_and_bodies(tmp_path: Path) -> None:
    tensors = []
    for name in ("stored", "inside"):
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=(1,), data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=f"{name}.bin")
        tensors.append(tensor)
    body = helper.make_graph([helper.make_node("Constant", [], ["c"], value=tensors[1])], "body", [], [])
    node = helper.make_node("If", ["x"], ["y"], then_branch=body, else_branch=body)
    graph = helper.make_graph([node], "g", [], [], tensors[:1])
    (tmp_path / "m.onnx").write_bytes(helper.make_model(graph).SerializeToString())
    assert {path.name for path in data_files(tmp_path / "m.onnx")} == {"stored.bin", "inside.bin"}
