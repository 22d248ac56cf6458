"""Every value of every small format against ml_dtypes, torch, gfloat and ONNX Runtime, or against its definition."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import gfloat
import numpy as np
import onnx
import pytest
import scipy.stats
import torch
from onnx import helper
from other_formats import GFLOAT, GFLOAT_TOLD, ML_DTYPES, ML_DTYPES_INTEGERS, TORCH

from ptq import formats
from ptq.formats.integer import IntFormat
from ptq.formats.minifloat import FloatFormat, Special
from ptq.model.session import Session
from ptq.rounding import round_to


@pytest.mark.parametrize("name", ML_DTYPES)
def test_every_value_is_that_of_ml_dtypes(name: str) -> None:
    fmt = formats.get(name)
    every = np.arange(2**fmt.bits).astype(np.uint8).view(ML_DTYPES[name]).astype(np.float64)
    finite = sorted({(float(value) + 0.0, code) for code, value in enumerate(every) if np.isfinite(value)})
    held = [(value, code) for value, code in finite if value or code == 0]
    assert list(zip(fmt.values, fmt.codes, strict=True)) == held


@pytest.mark.parametrize("name", TORCH)
def test_every_value_is_that_of_torch(name: str) -> None:
    fmt = formats.get(name)
    every = torch.arange(256, dtype=torch.uint8).view(TORCH[name]).double()
    assert every[list(fmt.codes)].tolist() == list(fmt.values)
    left = sorted(set(range(256)) - set(fmt.codes))
    assert not (every[left].isfinite() & (every[left] != 0)).any()
    assert bool((every[left] == 0).any()) == fmt.has_negative_zero


@pytest.mark.parametrize("name", GFLOAT | GFLOAT_TOLD)
def test_every_value_is_that_of_gfloat(name: str) -> None:
    fmt, info = formats.get(name), (GFLOAT | GFLOAT_TOLD)[name]
    assert fmt.bits == info.bits
    codes = np.array(fmt.codes) % 2**fmt.bits
    assert [gfloat.decode_float(info, int(code)).fval for code in codes] == list(fmt.values)
    left = [gfloat.decode_float(info, code).fval for code in set(range(2**fmt.bits)) - set(codes.tolist())]
    finite = [value for value in left if math.isfinite(value)]
    assert finite == [-0.0] * fmt.has_negative_zero + [fmt.min - 1] * isinstance(fmt, IntFormat) * (fmt.min < 0)


@pytest.mark.parametrize("name", ML_DTYPES_INTEGERS)
def test_every_integer_is_that_of_ml_dtypes(name: str) -> None:
    fmt = formats.get(name)
    patterns = (np.array(fmt.codes) % 2**fmt.bits).astype(np.uint8)
    assert patterns.view(ML_DTYPES_INTEGERS[name]).astype(np.float64).tolist() == list(fmt.values)


@pytest.mark.parametrize(
    "name", [name for name, fmt in formats.FORMATS.items() if fmt.onnx not in (None, "FLOAT4E2M1")]
)
def test_every_value_is_that_of_the_cast_of_onnx_runtime(name: str) -> None:
    """Of FLOAT4E2M1 it has none."""
    fmt = formats.get(name)
    dtype = helper.tensor_dtype_to_np_dtype(onnx.TensorProto.DataType.Value(str(fmt.onnx)))
    patterns = (np.array(fmt.codes) % 2**fmt.bits).astype(np.uint8).view(dtype)
    graph = helper.make_graph(
        [helper.make_node("Cast", ["codes"], ["y"], to=onnx.TensorProto.FLOAT)],
        "g",
        [],
        [helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [None])],
        [onnx.numpy_helper.from_array(patterns, "codes")],
    )
    opsets = [helper.make_opsetid("", max(13, fmt.least_opset or 0))]
    proto = helper.make_model(graph, opset_imports=opsets, ir_version=helper.find_min_ir_version_for(opsets))
    assert Session(proto.SerializeToString()).run({})[0].astype(np.float64).tolist() == list(fmt.values)


def test_steps_of_an_octave_are_powers_of_two_to_8_bits() -> None:
    """ulog8, in integers: value / 2^octave * 128 is the integer nearest to 128 * 2^(step / 16)."""
    for code, value in zip(range(256), formats.get("ulog8").values, strict=True):
        octave, step = divmod(code, 16)
        near = Fraction(value) / 2**octave * 128
        assert near.denominator == 1
        assert (2 * near - 1) ** 16 < 2**step * 256**16 < (2 * near + 1) ** 16


def test_whole_steps() -> None:
    for bits in (1, 2, 3, 4):
        assert formats.get(f"steps{2**bits}").values == tuple(range(1, 2**bits + 1))
        assert formats.get(f"steps{2**bits}").codes == tuple(range(2**bits))


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
    for hot, name, places in ((1, "pot3", 3), (1, "pot4", 7), (2, "nhot2", 7), (3, "nhot3", 7)):
        powers = [0, *(sign * 2.0**p for p in range(places) for sign in (1, -1))]
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
