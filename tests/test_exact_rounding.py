"""Rounding bit by bit: a million floats as torch, ml_dtypes, gfloat and ONNX Runtime, where they have the format.

All others, and these on fewer floats, against exact rational arithmetic. The sign of zero is among the bits. Two things
differ by rule: NaN stays NaN, where a type has none others make a number of it; and what is beyond the largest number
becomes that, where others may make NaN or infinity of it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import gfloat
import numpy as np
import onnx
import pytest
import torch
from exact import nearest
from numpy.typing import NDArray
from onnx import TensorProto, helper
from other_formats import GFLOAT, GFLOAT_TOLD, ML_DTYPES, TORCH

from ptq import formats
from ptq.fitted import FITTED
from ptq.formats import Format
from ptq.formats.minifloat import SqueezedFormat
from ptq.model.session import Session
from ptq.rounding import Rounding, round_to

COUNT, SLOW_COUNT = 1_000_000, 20_000
EVEN, AWAY = Rounding.NEAREST_EVEN, Rounding.NEAREST_AWAY
MODES = {EVEN: gfloat.RoundMode.TiesToEven, AWAY: gfloat.RoundMode.TiesToAway}

Floats = NDArray[np.float32]
Check = Callable[[], None]


@lru_cache(maxsize=2)
def numbers(fmt: Format) -> Floats:
    """Floats of every size that the format has and of some that it has not, and all that is special.

    Its numbers, what lies halfway between them and beside that; a quarter of a million random patterns, which are
    subnormals, infinities and NaN too; both zeros.
    """
    rng = np.random.default_rng(0)
    least = min(abs(value) for value in fmt.values if value)
    octaves = rng.uniform(math.log2(least) - 3, min(math.log2(fmt.max) + 3, 127.9), COUNT)
    spread = rng.choice([-1, 1], COUNT) * 2.0**octaves
    values = np.array(fmt.values)
    halfway = ((values[1:] + values[:-1]) / 2).astype(np.float32)
    beside = [np.nextafter(halfway, np.float32(to)) for to in (-np.inf, np.inf)]
    bits = rng.integers(0, 2**32, COUNT // 4, dtype=np.uint32).view(np.float32)
    bits[np.isnan(bits)] = np.nan  # numpy warns of those that signal
    info = np.finfo(np.float32)
    edges = np.array([0, info.smallest_subnormal, info.tiny, info.max, np.inf, fmt.max, np.nan])
    parts = (spread, values, -values, halfway, -halfway, *beside, bits, edges, -edges)
    return np.concatenate([part.astype(np.float32) for part in parts])


def agree(fmt: Format, x: Floats, theirs: np.ndarray, mode: Rounding = EVEN) -> None:
    """Compare; `theirs` may have what is no number for NaN and beyond the largest one."""
    ours = round_to(fmt, torch.from_numpy(x), mode).numpy()
    nan = np.isnan(x)
    assert np.array_equal(nan, np.isnan(ours))
    beyond = ~np.isfinite(theirs) & ~nan
    assert (np.abs(x[beyond]) > fmt.max).all()
    expected = np.where(beyond, x.clip(fmt.min, fmt.max), theirs).astype(np.float32)
    np.testing.assert_array_equal(ours[~nan].view(np.uint32), expected[~nan].view(np.uint32))


@pytest.mark.parametrize("name", TORCH)
def test_as_torch(name: str) -> None:
    """Scales with ties upwards, and of normal floats: it drops a sign, and rounds all between 2^-127 and 2^-126 up."""
    fmt, x = formats.get(name), numbers(formats.get(name))
    x = x[x >= np.finfo(np.float32).tiny] if name == "e8m0" else x
    theirs = torch.from_numpy(x).to(TORCH[name]).float().numpy()
    agree(fmt, x, theirs, AWAY if name == "e8m0" else EVEN)


@pytest.mark.parametrize("name", ML_DTYPES)
def test_as_ml_dtypes(name: str) -> None:
    """Scales as torch does, but for the signs: it makes NaN of 0 and below."""
    fmt, x = formats.get(name), numbers(formats.get(name))
    x = x[x >= np.finfo(np.float32).tiny] if name == "e8m0" else x
    theirs = x.astype(ML_DTYPES[name]).astype(np.float32)
    agree(fmt, x, theirs, AWAY if name == "e8m0" else EVEN)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", GFLOAT | GFLOAT_TOLD)
def test_as_gfloat(name: str, mode: Rounding) -> None:
    """It takes no account of the least of scales and of unsigned integers, and its signed ones are not symmetric."""
    fmt, info = formats.get(name), (GFLOAT | GFLOAT_TOLD)[name]
    x = numbers(fmt)
    x = x[x >= fmt.min] if name == "e8m0" else x
    x = x if mode is EVEN else x[-COUNT // 3 :]
    theirs = gfloat.round_ndarray(info, x.astype(np.float64), MODES[mode], sat=True)
    agree(fmt, x, theirs.clip(fmt.min, fmt.max) if "int" in name else theirs, mode)


def runtime(x: Floats, opset: int, op: str, *more: np.ndarray, **attributes: str | int) -> Floats:
    """What ONNX Runtime makes of numbers by one node that makes another type of them."""
    inputs = [f"input{place}" for place in range(len(more))]
    nodes = [
        helper.make_node(op, ["x", *inputs], ["q"], **attributes),
        helper.make_node("Cast", ["q"], ["y"], to=TensorProto.FLOAT),
    ]
    ends = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None]) for name in "xy")
    held = [onnx.numpy_helper.from_array(array, name) for name, array in zip(inputs, more, strict=True)]
    graph = helper.make_graph(nodes, "g", [next(ends)], [next(ends)], held)
    opsets = [helper.make_opsetid("", opset)]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets))
    made: Floats = Session(proto.SerializeToString()).run({"x": x})[0]
    return made


def kind_of(fmt: Format) -> int:
    return int(TensorProto.DataType.Value(str(fmt.onnx)))


@pytest.mark.parametrize("name", TORCH)
def test_as_the_cast_of_onnx_runtime(name: str) -> None:
    """Beyond the largest number too: it saturates unless it is told not to. "nearest" is with ties upwards."""
    fmt = formats.get(name)
    scales: dict[str, str] = {"round_mode": "nearest"} if name == "e8m0" else {}
    x = numbers(fmt)
    theirs = runtime(x, fmt.least_opset or 0, "Cast", to=kind_of(fmt), **scales)
    agree(fmt, x, theirs, AWAY if scales else EVEN)
    assert np.isfinite(theirs[~np.isnan(x)]).all()


SCALES = {"int8": 0.03, "uint8": 0.1, "int4": 0.7, "uint4": 1.0, "int2": 3.0, "uint2": 1 / 3} | dict.fromkeys(
    [name for name in TORCH if name != "e8m0"], 0.25
)


@pytest.mark.parametrize(("name", "scale"), SCALES.items())
def test_as_quantize_linear_of_onnx_runtime(name: str, scale: float) -> None:
    """A true division, then rounding. Its integers have no NaN, and one more negative number."""
    fmt = formats.get(name)
    with np.errstate(over="ignore", under="ignore"):
        x = numbers(fmt) * np.float32(scale)
    zero = np.zeros((), helper.tensor_dtype_to_np_dtype(kind_of(fmt)))
    theirs = runtime(x, max(21, fmt.least_opset or 0), "QuantizeLinear", np.array(scale, np.float32), zero)
    agree(fmt, x / np.float32(scale), theirs.clip(fmt.min, fmt.max))


MEMBERS = {fmt.name: fmt for fitted in FITTED.values() for fmt in fitted.members}
SQUEEZED = {f"s2fp8 {alpha:g}": SqueezedFormat.of(alpha) for alpha in (0.4, 1.0, 1.3, 7.0)}
ALL = {**SQUEEZED, **MEMBERS, **formats.FORMATS}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("name", ALL)
def test_as_defined_in_rational_numbers(name: str, mode: Rounding) -> None:
    """It is slow, so that those which others have are rounded to on fewer floats."""
    fmt = ALL[name]
    known = name in TORCH | ML_DTYPES | GFLOAT | GFLOAT_TOLD or mode is AWAY
    every = numbers(fmt)
    special = every[COUNT : COUNT + 5 * len(fmt.values)]
    drawn = every[:: len(every) // (SLOW_COUNT // (10 if known else 1))]
    x = np.concatenate([special, drawn, every[-20:]])
    expected = np.array([nearest(fmt, value, away=mode is AWAY) for value in x.tolist()])
    agree(fmt, x, expected.astype(np.float32), mode)


CAST = ("fp8_e5m2", "fp8_e4m3fn", "fp8_e5m2fnuz", "fp8_e4m3fnuz")
"""Formats that torch casts to."""


@pytest.mark.parametrize("name", CAST)
def test_casts_of_narrow_types_are_the_table_of_float64(name: str) -> None:
    """All float16 and bfloat16; of float32 all upper halves, with lower ones at, below and above what makes ties."""
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    bits = (np.arange(2**16, dtype=np.uint32)[:, None] * 2**16 + lower).reshape(-1)
    halves = torch.arange(-(2**15), 2**15).to(torch.int16)
    fmt = formats.get(name)
    for x in (torch.from_numpy(bits.view(np.float32)), halves.view(torch.float16), halves.view(torch.bfloat16)):
        whole = torch.int32 if x.dtype == torch.float32 else torch.int16
        got, expected = round_to(fmt, x), round_to(fmt, x.double()).to(x.dtype)
        assert torch.equal(got.isnan(), x.isnan())
        assert torch.equal(got.view(whole)[~x.isnan()], expected.view(whole)[~x.isnan()])
