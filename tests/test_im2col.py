"""Patches times the flattened weight are the convolution."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from calibration.im2col import patches, rows

CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}


@st.composite
def convolutions(draw: st.DrawFn) -> dict[str, object]:
    n = draw(st.integers(1, 3))
    axes = st.lists(st.integers(1, 3), min_size=n, max_size=n)
    return {
        "spatial": draw(st.lists(st.integers(5, 9), min_size=n, max_size=n)),
        "kernel": draw(axes),
        "strides": draw(axes),
        "dilations": draw(st.lists(st.integers(1, 2), min_size=n, max_size=n)),
        "pads": draw(st.lists(st.integers(0, 2), min_size=2 * n, max_size=2 * n)),
        "groups": draw(st.sampled_from([1, 2, 4])),
    }


@given(convolutions())
@settings(deadline=None, max_examples=60)
def test_patches_are_what_the_convolution_sees(c: dict[str, list[int]]) -> None:
    generator = torch.Generator().manual_seed(0)
    groups, n = int(c["groups"]), len(c["kernel"])  # type: ignore[call-overload]
    x = torch.randn(2, 4, *c["spatial"], generator=generator)
    weight = torch.randn(8, 4 // groups, *c["kernel"], generator=generator)
    padded = F.pad(x, [p for axis in reversed(range(n)) for p in (c["pads"][axis], c["pads"][axis + n])])
    expected = CONV[n](padded, weight, None, tuple(c["strides"]), 0, tuple(c["dilations"]), groups)
    seen = patches(x, c["kernel"], c["strides"], c["pads"], c["dilations"], groups)
    got = seen @ weight.reshape(groups, 8 // groups, -1).transpose(1, 2)
    flat = expected.reshape(2, groups, 8 // groups, -1).permute(1, 0, 3, 2).reshape(got.shape)
    assert torch.allclose(got, flat, atol=1e-4)


def test_some_positions_are_an_even_part_of_all() -> None:
    x = torch.arange(28 * 28.0).reshape(1, 1, 28, 28)
    some = patches(x, (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), 1, positions=50)
    assert 25 <= some.shape[1] <= 50
    assert abs(float(some.mean()) - float(x.mean())) < 15
    assert set(some.flatten().tolist()) <= set(x.flatten().tolist())


def test_rows_are_the_last_axis() -> None:
    assert rows(torch.zeros(2, 3, 4, 5)).shape == (1, 24, 5)
