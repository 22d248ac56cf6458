"""Rounding against ONNX Runtime, gfloat and brute force over the table."""

from __future__ import annotations

import math
from dataclasses import dataclass

import gfloat
import gfloat.formats
import numpy as np
import pytest
import torch
from exact import nearest
from hypothesis import given
from hypothesis import strategies as st

from ptq import formats
from ptq.errors import OptionError
from ptq.formats import Format
from ptq.formats.minifloat import FLOAT16
from ptq.rounding import Rounding, round_to
from ptq.rounding import nearest as nearest_to


@dataclass(frozen=True)
class TableFormat(Format):
    """Any table, to test what formats to come will need."""

    values: tuple[float, ...] = ()  # type: ignore[assignment]
    codes: tuple[int, ...] = ()  # type: ignore[assignment]


def gfloat_table(info: gfloat.FormatInfo) -> TableFormat:
    found = {gfloat.decode_float(info, code).fval + 0.0: code for code in reversed(range(2**info.bits))}
    finite = sorted((value, code) for value, code in found.items() if np.isfinite(value))
    return TableFormat(info.name, info.bits, tuple(v for v, _ in finite), tuple(c for _, c in finite))


E2M1 = gfloat_table(gfloat.formats.format_info_ocp_e2m1)
E4M3 = gfloat_table(gfloat.formats.format_info_ocp_e4m3)
UNEVEN = TableFormat("uneven", 3, (-5.0, -1.0, 0.0, 0.25, 3.0), (0, 1, 2, 3, 4))
SHIFTED = TableFormat("shifted", 2, (-1.0, 0.0, 1.0, 2.0), (0, 1, 2, 3))
"""Integers with codes that are even where the integers are odd."""

ALL = [*formats.FORMATS.values(), E2M1, E4M3, UNEVEN, SHIFTED]


NEAREST = {Rounding.NEAREST_EVEN: False, Rounding.NEAREST_AWAY: True}
"""Whether ties go away from zero."""


@pytest.mark.parametrize("mode", NEAREST)
@pytest.mark.parametrize("fmt", ALL, ids=lambda fmt: fmt.name)
def test_every_number_and_every_tie_is_rounded_as_defined(fmt: Format, mode: Rounding) -> None:
    values = np.array(fmt.values)
    halfway = (values[1:] + values[:-1]) / 2
    points = np.concatenate([values, halfway, np.nextafter(halfway, -np.inf), np.nextafter(halfway, np.inf)])
    rounded = round_to(fmt, torch.tensor(points), mode)
    assert rounded.tolist() == [nearest(fmt, x, away=NEAREST[mode]) for x in points]
    assert torch.equal(round_to(fmt, rounded, mode), rounded)


@pytest.mark.parametrize("mode", NEAREST)
@pytest.mark.parametrize("fmt", [*ALL, FLOAT16], ids=lambda fmt: fmt.name)
def test_many_floats_are_rounded_as_they_are_in_float64(fmt: Format, mode: Rounding) -> None:
    """All ties and what is next to them, every upper half of a float32 with some lower ones, NaN and infinities too."""
    values = np.array(fmt.values)
    ties = ((values[1:] + values[:-1]) / 2).astype(np.float32)
    near = np.concatenate([ties, np.nextafter(ties, np.float32(-np.inf)), np.nextafter(ties, np.float32(np.inf))])
    lower = np.random.default_rng(0).integers(0, 1 << 16, 1 << 16)
    lower[::5], lower[1::5] = 0, (1 << 16) - 1
    bits = (np.arange(1 << 16) << 16 | lower).astype(np.uint32).view(np.float32)
    x = torch.from_numpy(np.concatenate([near, bits]))
    many, one_by_one = round_to(fmt, x, mode), round_to(fmt, x.double(), mode).float()
    assert torch.equal(many.isnan(), x.isnan())
    assert torch.equal(many.nan_to_num(), one_by_one.nan_to_num())
    assert torch.equal(many.signbit()[~x.isnan()], one_by_one.signbit()[~x.isnan()])


def test_many_floats_can_be_traced_and_differentiated() -> None:
    x, rounded = torch.linspace(-9, 9, 5000), nearest_to(formats.get("nf4"))
    compiled = torch.compile(rounded, backend="aot_eager", fullgraph=True)
    assert torch.equal(compiled(x), rounded(x))
    followed = x.clone().requires_grad_()
    rounded(followed).sum().backward()
    assert followed.grad is not None


@given(st.sampled_from(ALL), st.floats(-300, 300, width=32), st.sampled_from(list(NEAREST)))
def test_any_number_goes_to_its_nearest(fmt: Format, x: float, mode: Rounding) -> None:
    assert round_to(fmt, torch.tensor([x]), mode).item() == nearest(fmt, x, away=NEAREST[mode])


@pytest.mark.parametrize("mode", Rounding)
@pytest.mark.parametrize("fmt", ALL, ids=lambda fmt: fmt.name)
def test_a_zero_has_the_sign_of_x_only_where_the_format_has_two(fmt: Format, mode: Rounding) -> None:
    """ml_dtypes and torch have it so too, see test_exact_rounding.py; no integer has a negative zero."""
    floats = {"fp8_e4m3fn", "fp8_e5m2", "fp8_e3m4", "fp8_e2m5", "fp6_e2m3", "fp6_e3m2", "fp4_e2m1", "luq_fp4"}
    assert fmt.has_negative_zero == (fmt.name in floats)
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        x = torch.tensor([0.0, -0.0, 1e-30, -1e-30] * 50, dtype=dtype)
        before = x.clone()
        rounded = round_to(fmt, x, mode, torch.Generator().manual_seed(1))
        zeros = rounded == 0
        assert zeros.all() or 0.0 not in fmt.values
        assert torch.equal(rounded.signbit()[zeros], (x.signbit() & fmt.has_negative_zero)[zeros])
        assert torch.equal(x, before)
        assert torch.equal(x.signbit(), before.signbit())


@pytest.mark.parametrize("mode", Rounding)
@pytest.mark.parametrize("fmt", ALL, ids=lambda fmt: fmt.name)
def test_the_largest_and_the_smallest_floats(fmt: Format, mode: Rounding) -> None:
    """Down to float64's least and up to its largest, which no sum or product inside may lose."""
    most, least = torch.finfo(torch.float64).max, math.ulp(0.0)
    x = torch.tensor([-most, -least, least, most], dtype=torch.float64)
    rounded = round_to(fmt, x, mode, torch.Generator().manual_seed(1)).tolist()
    expected = [nearest(fmt, value, away=True) for value in x.tolist()]
    assert rounded == expected


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
