"""Every small format against ml_dtypes, gfloat, torch and ONNX Runtime, the rest against its definition."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import gfloat
import gfloat.formats
import numpy as np
import onnx
import pytest
import scipy.stats
import torch
from onnx import helper
from other_formats import ML_DTYPES

from ptq import formats
from ptq.formats import Format
from ptq.formats.minifloat import FloatFormat, Special
from ptq.model.session import Session
from ptq.rounding import round_to

GFLOAT = {
    "fp8_e4m3fn": gfloat.formats.format_info_ocp_e4m3,
    "fp8_e5m2": gfloat.formats.format_info_ocp_e5m2,
    "fp6_e2m3": gfloat.formats.format_info_ocp_e2m3,
    "fp6_e3m2": gfloat.formats.format_info_ocp_e3m2,
    "fp4_e2m1": gfloat.formats.format_info_ocp_e2m1,
    "e8m0": gfloat.formats.format_info_ocp_e8m0,
}
TORCH = {
    "fp8_e4m3fn": torch.float8_e4m3fn,
    "fp8_e4m3fnuz": torch.float8_e4m3fnuz,
    "fp8_e5m2": torch.float8_e5m2,
    "fp8_e5m2fnuz": torch.float8_e5m2fnuz,
}
COUNT = 1_000_000


def patterns(fmt: Format) -> np.ndarray:
    return np.array(fmt.codes).astype(np.uint8)


def numbers(fmt: Format) -> torch.Tensor:
    """A million floats of every size that the format has and of some that it has not, its ties, both zeros."""
    rng = np.random.default_rng(0)
    least = min(abs(value) for value in fmt.values if value)
    octaves = rng.uniform(math.log2(least) - 3, min(math.log2(fmt.max) + 3, 126), COUNT)
    spread = rng.choice([-1, 1], COUNT) * 2.0**octaves
    values = np.array(fmt.values)
    halfway = (values[1:] + values[:-1]) / 2
    bits = rng.integers(0, 2**32, COUNT // 4, dtype=np.uint32).view(np.float32)
    special = [0.0, -0.0, 1e-45, -1e-45, np.finfo(np.float32).tiny, np.finfo(np.float32).max]
    every = np.concatenate([spread, values, halfway, bits[np.isfinite(bits)], special])
    return torch.from_numpy(every.astype(np.float32))


def inside(fmt: Format, x: torch.Tensor) -> torch.Tensor:
    """What others round as we do: beyond the largest number some give infinity or NaN, where we saturate."""
    return x.clamp(fmt.min, fmt.max)


@pytest.mark.parametrize("name", ML_DTYPES)
def test_every_value_is_that_of_ml_dtypes(name: str) -> None:
    fmt = formats.get(name)
    every = np.arange(2**fmt.bits).astype(np.uint8).view(ML_DTYPES[name]).astype(np.float64)
    finite = sorted({(float(value) + 0.0, code) for code, value in enumerate(every) if np.isfinite(value)})
    held = [(value, code) for value, code in finite if value or code == 0]
    assert list(zip(fmt.values, fmt.codes, strict=True)) == held


@pytest.mark.parametrize("name", GFLOAT)
def test_every_value_is_that_of_gfloat(name: str) -> None:
    fmt, info = formats.get(name), GFLOAT[name]
    assert fmt.bits == info.bits
    assert [gfloat.decode_float(info, code).fval for code in fmt.codes] == list(fmt.values)


@pytest.mark.parametrize("name", [name for name in ML_DTYPES if name != "e8m0"])
def test_rounding_is_that_of_ml_dtypes(name: str) -> None:
    fmt = formats.get(name)
    x = inside(fmt, numbers(fmt))
    expected = x.numpy().astype(ML_DTYPES[name]).astype(np.float32)
    np.testing.assert_array_equal(round_to(fmt, x).numpy(), expected)


@pytest.mark.parametrize("name", TORCH)
def test_rounding_is_that_of_torch(name: str) -> None:
    fmt = formats.get(name)
    x = inside(fmt, numbers(fmt))
    torch.testing.assert_close(round_to(fmt, x), x.to(TORCH[name]).float(), rtol=0, atol=0)


def runtime(nodes: list[onnx.NodeProto], x: np.ndarray, opset: int, **weights: np.ndarray) -> np.ndarray:
    """What ONNX Runtime makes of numbers `x`."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [None])],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None])],
        [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    return Session(proto.SerializeToString()).run({"x": x})[0]


@pytest.mark.parametrize("name", TORCH)
def test_rounding_is_that_of_the_cast_of_onnx_runtime(name: str) -> None:
    """Beyond the largest number too: ONNX's Cast saturates unless it is told not to."""
    fmt = formats.get(name)
    x = torch.cat([numbers(fmt), torch.tensor([math.inf, -math.inf, math.nan])])
    kind = onnx.TensorProto.DataType.Value(str(fmt.onnx))
    nodes = [
        helper.make_node("Cast", ["x"], ["q"], to=kind),
        helper.make_node("Cast", ["q"], ["y"], to=onnx.TensorProto.FLOAT),
    ]
    np.testing.assert_array_equal(round_to(fmt, x).numpy(), runtime(nodes, x.numpy(), 21))


@pytest.mark.parametrize(("name", "scale"), [("uint8", 0.1), ("int8", 0.03), ("fp8_e4m3fn", 0.25), ("fp8_e5m2", 0.125)])
def test_rounding_is_that_of_quantize_linear(name: str, scale: float) -> None:
    fmt = formats.get(name)
    x = (numbers(fmt) * scale).clamp(-1e30, 1e30)
    dtype = onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.DataType.Value(str(fmt.onnx)))
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"]),
        helper.make_node("Cast", ["q"], ["y"], to=onnx.TensorProto.FLOAT),
    ]
    weights = {"scale": np.array(scale, np.float32), "zero": np.zeros((), dtype)}
    expected = runtime(nodes, x.numpy(), 21, **weights)
    if name == "int8":
        expected = expected.clip(fmt.min, fmt.max)  # ours is symmetric
    np.testing.assert_array_equal(round_to(fmt, x / np.float32(scale)).numpy(), expected)


def defined(fmt: FloatFormat, code: int) -> Fraction:
    """The number of a pattern with an integer bias, in exact arithmetic."""
    sign, rest = divmod(code, 2 ** (fmt.exponent + fmt.mantissa))
    field, fraction = divmod(rest, 2**fmt.mantissa)
    bias = 2 ** (fmt.exponent - 1) - 1 if fmt.bias is None else int(fmt.bias)
    significand = Fraction(fraction, 2**fmt.mantissa) + (field > 0)
    return (-1) ** sign * significand * Fraction(2) ** (max(field, 1) - bias)


WIDTHS = [(e, m, signed) for e in range(1, 8) for m in range(8) for signed in (True, False) if e + m + signed <= 8]


@pytest.mark.parametrize(("exponent", "mantissa", "signed"), WIDTHS)
def test_any_widths_any_bias_any_special(exponent: int, mantissa: int, signed: bool) -> None:
    for special in Special:
        for bias in (None, -3, 12):
            fmt = FloatFormat.of("mine", exponent, mantissa, special, bias=bias, signed=signed)
            if len(fmt.values) < 2:
                continue
            assert fmt.bits == exponent + mantissa + signed
            assert [defined(fmt, code) for code in fmt.codes] == [Fraction(value) for value in fmt.values]
            patterns = 2**fmt.bits - len(fmt.values)
            specials = {Special.NAN: 1, Special.IEEE: 2**mantissa}.get(special, 0) * (1 + signed)
            assert patterns == specials + signed  # the second zero, or the NaN in its place


def test_a_bias_may_be_any_number() -> None:
    """FP8 with the largest number 3, from the authors' code (papers.md, section 4.2)."""
    x = torch.tensor([-3, -1.7, -0.2, 0.01, 0.33, 0.9, 2.2], dtype=torch.float64)
    expected = {
        2: [-3, -1.71428571, -0.1875, 0.01004464, 0.32142857, 0.85714286, 2.14285714],
        3: [-3, -1.6, -0.2, 0.01015625, 0.325, 0.9, 2.2],
        5: [-3, -1.71428571, -0.20238095, 0.01190476, 0.33333333, 0.9047619, 2.19047619],
    }
    for mantissa, numbers in expected.items():
        exponent = 7 - mantissa
        bias = 2**exponent - math.log2(3) + math.log2(2 - 2.0**-mantissa) - 1
        fmt = FloatFormat.of("mine", exponent, mantissa, bias=bias)
        assert fmt.max == pytest.approx(3, rel=1e-12)
        np.testing.assert_allclose(round_to(fmt, x), numbers, rtol=1e-7, atol=5e-9)


def test_luq_has_seven_powers_of_two_or_eight() -> None:
    for name, count in (("luq_fp4", 7), ("luq_fp4_paper", 8)):
        assert [v for v in formats.get(name).values if v > 0] == [2.0**k for k in range(count)]


def test_n_hot_numbers() -> None:
    """The sets of papers.md, section 4.5, and every magnitude written out for three powers."""
    from ptq.formats.logarithmic import HotFormat

    assert [v for v in HotFormat.of("mine", 1, 4).values if v >= 0] == [0, 1, 2, 4, 8]
    assert [v for v in HotFormat.of("mine", 2, 4).values if v >= 0] == [*range(11), 12]
    powers = [0, *(sign * 2.0**p for p in range(7) for sign in (1, -1))]
    for hot, name in ((1, "pot4"), (2, "nhot2"), (3, "nhot3")):
        picks = itertools.combinations_with_replacement(powers, hot)
        sums = {sum(pick) for pick in picks if len({abs(p) for p in pick if p}) == sum(map(bool, pick))}
        assert set(formats.get(name).values) == sums


def posit(code: int, bits: int, es: int) -> Fraction:
    """A posit by its definition, bit by bit from the sign on."""
    if code == 0:
        return Fraction(0)
    negative = code >= 2 ** (bits - 1)
    code = 2**bits - code if negative else code
    digits = [code >> place & 1 for place in reversed(range(bits - 1))]
    run = next((place for place, digit in enumerate(digits) if digit != digits[0]), len(digits))
    regime = run - 1 if digits[0] else -run
    rest = digits[run + 1 :]
    exponent = sum(digit << (es - 1 - place) for place, digit in enumerate(rest[:es]))
    fraction = sum(Fraction(digit, 2 ** (place + 1)) for place, digit in enumerate(rest[es:]))
    return (-1 if negative else 1) * Fraction(2) ** (regime * 2**es + exponent) * (1 + fraction)


@pytest.mark.parametrize("es", [0, 1, 2])
def test_posits_are_as_defined(es: int) -> None:
    fmt = formats.get(f"posit8_{es}")
    assert [posit(code, 8, es) for code in fmt.codes] == [Fraction(value) for value in fmt.values]
    assert fmt.max == 2.0 ** (6 * 2**es) == 1 / min(value for value in fmt.values if value > 0)
    assert len(fmt.values) == 255


def test_nf4_are_quantiles_of_the_normal_distribution() -> None:
    """As QLoRA makes them: equally many quantiles on both sides, 0 in the middle, the largest 1."""
    offset = 0.9677083
    upper = scipy.stats.norm.ppf(np.linspace(offset, 0.5, 9)[:-1])
    lower = -scipy.stats.norm.ppf(np.linspace(offset, 0.5, 8)[:-1])
    expected = np.sort(np.concatenate([upper, lower, [0.0]])) / upper.max()
    np.testing.assert_allclose(formats.get("nf4").values, expected, atol=2e-6)
