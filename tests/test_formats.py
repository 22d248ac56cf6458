"""Formats against ml_dtypes and ONNX, and the names by which they are found."""

from __future__ import annotations

import math
import subprocess
import sys

import ml_dtypes
import numpy as np
import onnx
import pytest

from ptq import formats, registry
from ptq.errors import OptionError
from ptq.formats.integer import IntFormat
from ptq.formats.logarithmic import LogFormat

WEIGHTS = ["int2", "int3", "int4", "int8"]


@pytest.mark.parametrize("name", formats.FORMATS)
def test_a_format_is_an_ascending_table_that_fits_its_bits(name: str) -> None:
    fmt = formats.get(name)
    assert fmt.name == name
    assert list(fmt.values) == sorted(set(fmt.values))
    assert len(set(fmt.codes)) == len(fmt.values) <= 2**fmt.bits
    assert (fmt.min, fmt.max) == (fmt.values[0], fmt.values[-1])
    assert not any(value == 0 and math.copysign(1, value) < 0 for value in fmt.values)
    assert 0.0 in fmt.values or isinstance(fmt, LogFormat) or name.startswith("steps")
    assert 0 <= max(fmt.codes) < 2**fmt.bits
    steps = [value / fmt.step for value in fmt.values]
    assert all(step == round(step) for step in steps)
    assert fmt.fits_int8 == (max(map(abs, steps)) <= 127)
    assert hash(fmt) == hash(formats.get(name))


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_are_symmetric(name: str) -> None:
    fmt = formats.get(name)
    assert fmt.max == 2 ** (fmt.bits - 1) - 1
    assert fmt.values == tuple(-value for value in reversed(fmt.values))


@pytest.mark.parametrize(
    ("fmt", "dtype"),
    [
        (IntFormat("int2", 2, narrow=False), ml_dtypes.int2),
        (IntFormat("int4", 4, narrow=False), ml_dtypes.int4),
        (IntFormat("uint4", 4, signed=False, narrow=False), ml_dtypes.uint4),
    ],
)
def test_the_full_range_is_that_of_ml_dtypes(fmt: IntFormat, dtype: type) -> None:
    info = ml_dtypes.iinfo(dtype)
    assert fmt.values == tuple(float(value) for value in range(int(info.min), int(info.max) + 1))


def test_bytes_are_those_of_numpy() -> None:
    assert (formats.get("uint8").min, formats.get("uint8").max) == (np.iinfo("u1").min, np.iinfo("u1").max)
    assert IntFormat("int8", 8, narrow=False).min == np.iinfo("i1").min


@pytest.mark.parametrize("fmt", [fmt for fmt in formats.FORMATS.values() if fmt.onnx], ids=lambda fmt: fmt.name)
def test_onnx_reads_the_codes_as_the_values_from_the_least_opset_on(fmt: formats.Format) -> None:
    assert fmt.onnx is not None
    assert fmt.least_opset is not None
    kind = onnx.TensorProto.DataType.Value(fmt.onnx)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(kind)
    patterns = np.array(fmt.codes).astype(np.int8 if fmt.min < 0 and fmt.codes[0] < 0 else np.uint8)
    numbers = patterns.astype(dtype) if "INT" in fmt.onnx else patterns.view(dtype)
    stored = onnx.numpy_helper.from_array(numbers, "codes")
    assert stored.data_type == kind
    assert len(stored.raw_data) == -(-len(numbers) * fmt.bits // 8)
    assert onnx.numpy_helper.to_array(stored).astype(np.float64).tolist() == list(fmt.values)
    assert _casts(fmt.onnx, fmt.least_opset)
    assert not _casts(fmt.onnx, fmt.least_opset - 1) or (fmt.bits == 8 and "INT" in fmt.onnx)


def _casts(kind: str, opset: int) -> bool:
    schema = onnx.defs.get_schema("Cast", opset)
    return any(f"tensor({kind.lower()})" in constraint.allowed_type_strs for constraint in schema.type_constraints)


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(OptionError, match="unknown format 'itn4'; did you mean 'int4'"):
        formats.get("itn4")


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        formats.FORMATS["mine"] = formats.get("int4")  # type: ignore[index]


def test_modules_are_listed_without_being_imported() -> None:
    script = (
        "import sys; from ptq import formats, registry; from ptq.registry import Modules;"
        "names = list(Modules('ptq.methods')); assert 'multipoint' in names, names;"
        "assert formats.get('int4').bits == 4;"
        "assert not {'torch', 'numpy', 'ptq.methods.multipoint'} & set(sys.modules), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_a_module_is_found_by_its_name() -> None:
    found = registry.Modules("ptq.formats")
    assert len(found) == len(list(found)) >= 1
    assert registry.get("family", "integer", found).__name__ == "ptq.formats.integer"
    with pytest.raises(OptionError, match="unknown family 'intger'; did you mean 'integer'"):
        registry.get("family", "intger", found)
