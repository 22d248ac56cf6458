"""How well schemes hold weights: against brute force, gfloat, GGUF and each other."""

from __future__ import annotations

import itertools

import gfloat.block
import gfloat.formats
import numpy as np
import pytest
import torch
from schemes import ALL, FEW, INFORMED, METHODS, curvature, gaussian, inputs, quantized

from ptq import formats, scheme
from ptq.scales import LOGARITHMIC
from ptq.scheme import SCHEMES
from ptq.solve import Curvature

LEARNING_IS_SLOW = [pytest.param(name, marks=[pytest.mark.slow] if name == "adaround" else []) for name in METHODS]


@pytest.mark.parametrize("name", [name for name in ALL if not name.startswith("mx")])
def test_the_scales_are_not_worse_than_those_that_just_fit(name: str) -> None:
    """Against brute force: each number to the nearest, the largest of the row or tensor being the format's largest."""
    how, weight = ALL[name], gaussian(2, 5, 72)
    made = quantized("rtn", how, weight, Curvature.unknown(2, 72)).dequantize()
    rows = weight.reshape(1 if how.per_tensor else 10, -1)
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    if how.symmetric:
        scale, zero = rows.abs().amax(1, keepdim=True) / how.format.max, torch.zeros(len(rows), 1)
    else:
        scale = (high - low) / how.format.max
        zero = (-low / scale).round()
    table = torch.tensor(how.format.values) - zero
    places = (rows[..., None] / scale[..., None] - table[:, None]).abs().argmin(-1)
    nearest = table.gather(1, places) * scale
    errors = [float((dense.reshape(rows.shape) - rows).square().sum()) for dense in (made, nearest)]
    spare = (
        1.5 if name.startswith("nhot3") else 1.08
    )  # the scales may be off by 2 %, the largest of nhot3 are far apart
    assert errors[0] < spare * errors[1]


@pytest.mark.parametrize("name", [name for name in ALL if name in FEW or name.endswith("channel")])
def test_feedback_is_not_worse_than_nearest_on_the_output(name: str) -> None:
    how, weight, x = ALL[name], gaussian(1, 8, 72), inputs(4000, 72)
    curve = curvature(x)
    errors = {
        method: float(((quantized(method, how, weight, curve).dequantize() - weight[0]) @ x.T).square().sum())
        for method in ("rtn", *INFORMED)
    }
    assert all(errors[method] < 0.95 * errors["rtn"] for method in INFORMED), errors


@pytest.mark.parametrize(
    "names",
    [
        ("int2", "int3", "int4", "int5", "int6", "int7", "int8"),
        ("uint2", "uint4", "uint8"),
        ("mxfp4", "mxfp6", "mxint8"),
        ("fp4_e2m1", "fp6_e2m3", "fp8_e2m5"),
    ],
)
@pytest.mark.parametrize("method", LEARNING_IS_SLOW)
def test_more_bits_are_less_error(method: str, names: tuple[str, ...]) -> None:
    weight, x = gaussian(1, 12, 96), inputs(2000, 96)
    curve = curvature(x)
    for group in (None,) if names[0] in SCHEMES else (None, "tensor", "32"):
        made = [quantized(method, scheme.parse(name, group), weight, curve).dequantize() for name in names]
        errors = [float(((dense - weight[0]) @ x.T).square().sum()) for dense in made]
        assert all(high > 1.5 * low for high, low in itertools.pairwise(errors)), (group, errors)


@pytest.mark.parametrize("method", LEARNING_IS_SLOW)
def test_smaller_groups_are_less_error(method: str) -> None:
    weight, x = gaussian(1, 12, 128), gaussian(2000, 128, seed=1)
    curve = curvature(x)
    for name in ("int4", "uint4"):
        hows = [scheme.parse(name, group) for group in ("tensor", "channel", "64", "32", "16")]
        made = [quantized(method, how, weight, curve).dequantize() for how in hows]
        errors = [float(((dense - weight[0]) @ x.T).square().sum()) for dense in made]
        assert errors == sorted(errors, reverse=True), name


def test_numbers_of_gguf_are_given_back() -> None:
    """Q4_0: groups of 32, a float16 scale, integers from -8 to 7 of which the farthest from 0 is -8."""
    weight = gaussian(64, 4, 32).numpy().reshape(32, 8, 32)
    most = np.take_along_axis(weight, np.abs(weight).argmax(-1)[..., None], -1)
    step = (most / -8).astype(np.float16)
    integers = np.clip(np.rint(weight / most * -8), -8, 7)
    dense = torch.from_numpy((integers * step.astype(np.float32)).reshape(1, 32, 256).astype(np.float32))
    made = quantized("rtn", scheme.parse("uint4", "32"), dense, Curvature.unknown(1, 256))
    assert torch.equal(made.dequantize(), dense[0])


def test_numbers_with_whole_zero_points_are_given_back() -> None:
    """Q4_1 where its least number is a multiple of its float16 scale: integers from 0 to 15 less a zero point."""
    generator = np.random.default_rng(5)
    integers = generator.integers(0, 16, (32, 8, 32))
    integers[..., 0], integers[..., 1] = 0, 15  # the scale of a group in GGUF is that of its range
    zero = generator.integers(0, 16, (32, 8, 1))
    step = generator.uniform(0.01, 0.2, (32, 8, 1)).astype(np.float16).astype(np.float32)
    dense = torch.from_numpy(((integers - zero) * step).astype(np.float32).reshape(1, 32, 256))
    made = quantized("rtn", scheme.parse("uint4", "32"), dense, Curvature.unknown(1, 256))
    assert torch.equal(made.dequantize(), dense[0])


@pytest.mark.parametrize(("name", "low", "high"), [("int4", -7, 7), ("int3", -3, 3), ("int8", -127, 127)])
def test_numbers_on_a_grid_of_stored_scales_are_given_back(name: str, low: int, high: int) -> None:
    """Scales of groups are steps of a sixteenth of an octave."""
    generator = torch.Generator().manual_seed(3)
    integers = torch.randint(low, high + 1, (16, 4, 32), generator=generator).float()
    integers[..., 0] = high
    table = torch.tensor(LOGARITHMIC.values)
    scale = table[torch.randint(0, 200, (16, 4), generator=generator)] * 2.0**-12
    dense = (integers * scale[..., None]).reshape(1, 16, 128)
    made = quantized("rtn", scheme.parse(name, "32"), dense, Curvature.unknown(1, 128))
    assert torch.equal(made.dequantize(), dense[0])


MX = {
    "mxfp8": gfloat.formats.format_info_mxfp8_e4m3,
    "mxfp6": gfloat.formats.format_info_mxfp6_e2m3,
    "mxfp4": gfloat.formats.format_info_mxfp4_e2m1,
    "mxint8": gfloat.formats.format_info_mxint8,
}


@pytest.mark.parametrize("name", MX)
def test_blocks_of_mx_are_those_of_gfloat(name: str) -> None:
    """At the same scale the same numbers; with the scale of the standard's rule the error is not less."""
    info, weight = MX[name], gaussian(1, 8, 128) * torch.logspace(-6, 3, 8)[:, None]
    made = quantized("rtn", SCHEMES[name], weight, Curvature.unknown(1, 128))
    dense, (term,) = made.dequantize(), made.terms
    assert term.blocks is not None
    assert (term.scale == 1).all()
    unit = 64 if name == "mxint8" else 1  # its elements are sixty-fourths
    for row in range(8):
        for group in range(4):
            columns = slice(32 * group, 32 * group + 32)
            block = weight[0, row, columns].double().numpy()
            scale = unit * float(term.blocks.factors[row, group])
            same = gfloat.block.quantize_block(info, block, lambda emax, vals, scale=scale: scale)
            ours = dense[row, columns].double().numpy()
            clipped = same == -2 * scale if name == "mxint8" else np.zeros(32, bool)  # int8 is -127 to 127 here
            assert np.array_equal(ours[~clipped], same[~clipped])
            usual = gfloat.block.quantize_block(info, block, gfloat.block.compute_scale_amax)
            usual = np.maximum(usual, -127 / 64 * np.abs(usual).max()) if name == "mxint8" else usual
            assert ((ours - block) ** 2).sum() <= ((usual - block) ** 2).sum() * (1 + 1e-9)


def test_scales_of_nvfp4_are_numbers_of_e4m3_times_one_float() -> None:
    weight = gaussian(1, 8, 128) * torch.logspace(-2, 1, 8)[:, None]
    made = quantized("rtn", SCHEMES["nvfp4"], weight, Curvature.unknown(1, 128))
    (term,) = made.terms
    assert term.blocks is not None
    factors = term.blocks.factors.numpy().astype(np.float64)
    e4m3 = gfloat.formats.format_info_ocp_e4m3
    assert all(gfloat.round_float(e4m3, factor) == factor for factor in factors.reshape(-1))
    assert term.scale[0] * 448 * 6 == pytest.approx(float(weight.abs().max()), rel=1e-6)
    # the usual rule: the scale of a block is the nearest to what its largest number needs
    parts = weight.reshape(8, 8, 16)
    needed = parts.abs().amax(-1) / 6 / term.scale[0]
    usual = torch.tensor([[gfloat.round_float(e4m3, float(each)) for each in row] for row in needed]) * term.scale[0]
    fp4 = torch.tensor(formats.get("fp4_e2m1").values)
    nearest = fp4[(parts[..., None] / usual[..., None, None] - fp4).abs().argmin(-1)] * usual[..., None]
    errors = [(dense.reshape(8, 8, 16) - parts).square().sum(-1) for dense in (made.dequantize(), nearest.float())]
    assert (errors[0] <= errors[1] * (1 + 1e-5)).all()
