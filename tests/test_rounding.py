"""Rounding against ONNX Runtime, gfloat and brute force over the table."""

from __future__ import annotations

import bisect
from dataclasses import dataclass
from fractions import Fraction

import gfloat
import gfloat.formats
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from ptq import formats
from ptq.errors import OptionError
from ptq.formats import Format
from ptq.rounding import Rounding, round_to


@dataclass(frozen=True)
class TableFormat(Format):
    """Any table, to test what formats to come will need."""

    values: tuple[float, ...] = ()  # type: ignore[assignment]
    codes: tuple[int, ...] = ()  # type: ignore[assignment]


def gfloat_table(info: gfloat.FormatInfo) -> TableFormat:
    found = {gfloat.decode_float(info, code).fval: code for code in reversed(range(2**info.bits))}
    finite = sorted((value, code) for value, code in found.items() if np.isfinite(value))
    return TableFormat(info.name, info.bits, tuple(v for v, _ in finite), tuple(c for _, c in finite))


E2M1 = gfloat_table(gfloat.formats.format_info_ocp_e2m1)
E4M3 = gfloat_table(gfloat.formats.format_info_ocp_e4m3)
UNEVEN = TableFormat("uneven", 3, (-5.0, -1.0, 0.0, 0.25, 3.0), (0, 1, 2, 3, 4))
SHIFTED = TableFormat("shifted", 2, (-1.0, 0.0, 1.0, 2.0), (0, 1, 2, 3))
"""Integers with codes that are even where the integers are odd."""

ALL = [*formats.FORMATS.values(), E2M1, E4M3, UNEVEN, SHIFTED]


def nearest(fmt: Format, x: float) -> float:
    """The definition, in exact arithmetic."""
    above = bisect.bisect_left(fmt.values, x)
    beside = [i for i in (above - 1, above) if 0 <= i < len(fmt.values)]
    best = min(beside, key=lambda i: (abs(Fraction(fmt.values[i]) - Fraction(x)), fmt.codes[i] % 2))
    return fmt.values[best]


@pytest.mark.parametrize("fmt", ALL, ids=lambda fmt: fmt.name)
def test_every_number_and_every_tie_is_rounded_as_defined(fmt: Format) -> None:
    values = np.array(fmt.values)
    halfway = (values[1:] + values[:-1]) / 2
    points = np.concatenate([values, halfway, np.nextafter(halfway, -np.inf), np.nextafter(halfway, np.inf)])
    rounded = round_to(fmt, torch.tensor(points))
    assert rounded.tolist() == [nearest(fmt, x) for x in points]
    assert torch.equal(round_to(fmt, rounded), rounded)


@given(st.sampled_from(ALL), st.floats(-300, 300, width=32))
def test_any_number_goes_to_its_nearest(fmt: Format, x: float) -> None:
    assert round_to(fmt, torch.tensor([x])).item() == nearest(fmt, x)


@pytest.mark.parametrize(
    ("fmt", "info"), [(E2M1, gfloat.formats.format_info_ocp_e2m1), (E4M3, gfloat.formats.format_info_ocp_e4m3)]
)
def test_floats_round_as_gfloat_does(fmt: Format, info: gfloat.FormatInfo) -> None:
    points = np.random.default_rng(0).normal(scale=fmt.max / 2, size=500)
    expected = [gfloat.round_float(info, x, gfloat.RoundMode.TiesToEven, sat=True) for x in points]
    assert round_to(fmt, torch.tensor(points)).tolist() == expected


def test_bytes_round_as_quantize_linear_does() -> None:
    import onnx.helper as oh
    import onnxruntime as ort

    node = oh.make_node("QuantizeLinear", ["x", "scale"], ["y"])
    scale = oh.make_tensor("scale", 1, [], [1.0])
    graph = oh.make_graph(
        [node], "g", [oh.make_tensor_value_info("x", 1, ["n"])], [oh.make_tensor_value_info("y", 2, ["n"])], [scale]
    )
    model = oh.make_model(graph, opset_imports=[oh.make_opsetid("", 21)], ir_version=10)
    x = np.concatenate([np.arange(-4, 600) / 2, np.random.default_rng(1).uniform(-10, 270, 1000)]).astype(np.float32)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {"x": x})
    assert np.array_equal(round_to(formats.get("uint8"), torch.tensor(x)).numpy(), expected.astype(np.float32))


@pytest.mark.parametrize("mode", Rounding)
@pytest.mark.parametrize("fmt", ALL, ids=lambda fmt: fmt.name)
def test_it_saturates_keeps_nan_and_leaves_the_input_alone(fmt: Format, mode: Rounding) -> None:
    x = torch.tensor([-torch.inf, -3e38, torch.nan, 3e38, torch.inf])
    before = x.clone()
    rounded = round_to(fmt, x, mode, torch.Generator())
    assert rounded[[0, 1, 3, 4]].tolist() == [fmt.min, fmt.min, fmt.max, fmt.max]
    assert rounded[2].isnan()
    assert torch.equal(x.nan_to_num(), before.nan_to_num())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("mode", Rounding)
def test_shape_and_dtype_stay(dtype: torch.dtype, mode: Rounding) -> None:
    for fmt in ALL:
        rounded = round_to(fmt, torch.zeros(2, 0, 3, dtype=dtype), mode, torch.Generator())
        assert (rounded.shape, rounded.dtype) == ((2, 0, 3), dtype)
        assert round_to(fmt, torch.tensor(0.1, dtype=dtype)).shape == ()


@pytest.mark.parametrize("fmt", ALL, ids=lambda fmt: fmt.name)
def test_stochastic_rounding_takes_a_neighbour_and_keeps_the_mean(fmt: Format) -> None:
    count = 20_000
    generator = torch.Generator().manual_seed(3)
    values = np.array(fmt.values)
    for low, high in {(values[i], values[i + 1]) for i in (0, (len(values) - 1) // 2, len(values) - 2)}:
        for part in (0.0, 0.1, 0.5, 0.9):
            x = low + part * (high - low)
            drawn = round_to(fmt, torch.full((count,), x, dtype=torch.float64), Rounding.STOCHASTIC, generator)
            assert set(drawn.tolist()) <= {low, high}
            spread = (high - low) * np.sqrt(part * (1 - part) / count)
            assert abs(drawn.mean().item() - x) <= 5 * spread + 1e-12


def test_stochastic_rounding_repeats_with_the_seed_and_needs_one() -> None:
    x = torch.linspace(-8, 8, 1000)
    fmt = formats.get("int4")
    one, two = (round_to(fmt, x, Rounding.STOCHASTIC, torch.Generator().manual_seed(7)) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one, round_to(fmt, x))
    with pytest.raises(OptionError, match="no generator; pass"):
        round_to(fmt, x, Rounding.STOCHASTIC)


def test_numbers_of_the_format_are_never_moved_by_chance() -> None:
    for fmt in ALL:
        table = torch.tensor(fmt.values, dtype=torch.float64)
        for seed in range(20):
            assert torch.equal(round_to(fmt, table, Rounding.STOCHASTIC, torch.Generator().manual_seed(seed)), table)
