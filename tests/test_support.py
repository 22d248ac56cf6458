"""What is said about how a format runs, against what ONNX Runtime makes of small graphs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from ptq import formats
from ptq.errors import ModelError
from ptq.formats import Format
from ptq.model.session import Session
from ptq.support import support

OPSET = 21
FORMATS = list(formats.FORMATS.values())
TYPED = [fmt for fmt in FORMATS if fmt.onnx is not None]


def stored(fmt: Format, shape: tuple[int, ...] = (-1,)) -> onnx.TensorProto:
    """The numbers of a format in its ONNX type."""
    dtype = helper.tensor_dtype_to_np_dtype(TensorProto.DataType.Value(str(fmt.onnx)))
    values = np.array(fmt.values) if shape == (-1,) else np.resize(fmt.values, shape)
    return onnx.numpy_helper.from_array(values.astype(dtype).reshape(shape), "stored")


def decoding(fmt: Format) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Nodes from what is stored to "decoded": multiples of the step where integers are wanted, else numbers."""
    runs = support(fmt)
    integer = runs.computed_in == "int8"
    if runs.decoded_by is None:
        return [helper.make_node("Identity", ["stored"], ["decoded"])], [stored(fmt)]
    if runs.decoded_by == "Cast":
        to = TensorProto.INT8 if integer else TensorProto.FLOAT
        return [helper.make_node("Cast", ["stored"], ["decoded"], to=to)], [stored(fmt)]
    table = np.zeros(2**fmt.bits, np.int8 if integer else np.float32)
    patterns = np.array(fmt.codes) % 2**fmt.bits
    table[patterns] = np.array(fmt.values) / fmt.step if integer else fmt.values
    nodes = [
        helper.make_node("Cast", ["stored"], ["places"], to=TensorProto.INT32),
        helper.make_node("Gather", ["table", "places"], ["decoded"]),
    ]
    arrays = {"stored": patterns.astype(np.uint8), "table": table}
    return nodes, [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]


def loaded(
    path: Path,
    nodes: list[onnx.NodeProto],
    constants: list[onnx.TensorProto],
    opset: int,
    kinds: tuple[int, int] = (TensorProto.FLOAT, TensorProto.FLOAT),
) -> tuple[Session, list[str]]:
    """A graph from "x" to "y" in ONNX Runtime, and what operators it runs."""
    ends = [helper.make_tensor_value_info(name, kind, None) for name, kind in zip("xy", kinds, strict=True)]
    graph = helper.make_graph(nodes, "g", [ends[0]], [ends[1]], constants)
    opsets = [helper.make_opsetid("", opset)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets))
    session = Session(proto.SerializeToString(), optimized_path=path / "optimized.onnx")
    return session, [node.op_type for node in onnx.load(path / "optimized.onnx", load_external_data=False).graph.node]


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda fmt: fmt.name)
def test_it_is_decoded_at_load_and_computed_in_what_is_said(fmt: Format, tmp_path: Path) -> None:
    nodes, constants = decoding(fmt)
    opset = max(OPSET, fmt.least_opset or 0)
    if support(fmt).computed_in == "float32":
        session, operators = loaded(
            tmp_path, [*nodes, helper.make_node("Mul", ["x", "decoded"], ["y"])], constants, opset
        )
        assert operators == ["Mul"]
        (made,) = session.run({"x": np.ones(1, np.float32)})
        assert made.astype(np.float64).tolist() == list(fmt.values)
        return
    row = onnx.numpy_helper.from_array(np.array([1, -1]), "row")
    nodes += [
        helper.make_node("Reshape", ["decoded", "row"], ["weight"]),
        helper.make_node("MatMulInteger", ["x", "weight"], ["y"]),
    ]
    kinds = (TensorProto.UINT8, TensorProto.INT32)
    session, operators = loaded(tmp_path, nodes, [*constants, row], opset, kinds)
    assert operators == ["MatMulInteger"]
    (made,) = session.run({"x": np.array([[1], [255]], np.uint8)})
    assert (made * fmt.step).tolist() == [list(fmt.values), [255 * value for value in fmt.values]]


@pytest.mark.parametrize("fmt", TYPED, ids=lambda fmt: fmt.name)
def test_codes_are_for_types_that_no_kernel_reads_or_that_are_new(fmt: Format, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Cast", ["stored"], ["decoded"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x", "decoded"], ["y"]),
    ]
    opset = max(OPSET, fmt.least_opset or 0)
    if support(fmt).stored_as == fmt.onnx:
        assert loaded(tmp_path, nodes, [stored(fmt)], opset)[1] == ["Mul"]
    elif fmt.name == "e8m0":  # a kernel reads it, in an opset that no file is raised to for scales
        assert opset == 24
    else:
        with pytest.raises(ModelError, match="Could not find an implementation for Cast"):
            loaded(tmp_path, nodes, [stored(fmt)], opset)


@pytest.mark.parametrize("fmt", TYPED, ids=lambda fmt: fmt.name)
def test_blocks_run_in_matmul_n_bits_from_that_opset_on(fmt: Format, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("DequantizeLinear", ["stored", "scale"], ["weight"], axis=0, block_size=16),
        helper.make_node("MatMul", ["x", "weight"], ["y"]),
    ]
    constants = [stored(fmt, (64, 32)), onnx.numpy_helper.from_array(np.ones((4, 32), np.float32), "scale")]
    first = support(fmt).blocks_from
    if first is not None:
        assert loaded(tmp_path, nodes, constants, first)[1] == ["MatMulNBits"]
        with pytest.raises(ModelError):
            loaded(tmp_path, nodes, constants, first - 1)
    elif fmt.name not in ("fp4_e2m1", "e8m0"):  # which have no DequantizeLinear at all
        assert loaded(tmp_path, nodes, constants, 25)[1] == ["DequantizeLinear", "MatMul"]
    else:
        with pytest.raises(ModelError):
            loaded(tmp_path, nodes, constants, 25)


def test_activations_are_of_the_types_that_qlinearconv_takes() -> None:
    schema = onnx.defs.get_schema("QLinearConv", OPSET)
    (allowed,) = [entry.allowed_type_strs for entry in schema.type_constraints if entry.type_param_str == "T1"]
    named = {f"tensor({str(fmt.onnx).lower()})" for fmt in FORMATS if support(fmt).activations}
    assert named == set(allowed)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("int2", "at most 1 step of 1.0"),
        ("int8", "on CPUs without VNNI, sums of weights above 63 steps may saturate"),
        ("fp8_e4m3fn", "in float32; the largest number is 229376 steps of 0.001953125, where int8 kernels hold 127"),
    ],
)
def test_why_it_is_computed_so(name: str, words: str) -> None:
    assert words in dict(support(formats.get(name)).explained)["computed"]


def test_the_warning_about_saturation_is_only_for_those_who_can(tmp_path: Path) -> None:
    """Two products of uint8 with a weight of 63 fit 16 bits; with 65 they do not."""
    for fmt in FORMATS:
        warned = "VNNI" in dict(support(fmt).explained)["computed"]
        assert warned == (fmt.fits_int8 and fmt.reach > 63)
        if fmt.fits_int8 and not warned:
            assert 2 * 255 * fmt.reach < 2**15
