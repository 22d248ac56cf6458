"""The Triton kernel against torch's operators with the same random bits, on a GPU or by Triton's interpreter.

Without a GPU: `TRITON_INTERPRET=1 python -m pytest tests/test_training_triton.py`, with Triton installed.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from ptq import formats
from ptq.training import powers
from ptq.training.gradients import Aligned
from ptq.training.powers import UNIFORM_STEP, stochastic_powers

pytest.importorskip("triton", reason="Triton is not installed; pip install triton")
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
if not INTERPRETED and not torch.cuda.is_available():
    pytest.skip("there is no GPU; set TRITON_INTERPRET=1 to interpret the kernel", allow_module_level=True)

from ptq.training import triton_kernels  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*encountered in:RuntimeWarning")  # the interpreter is NumPy
DEVICE = "cpu" if INTERPRETED else "cuda"
NAMES = ["luq_fp4", "luq_fp4_paper", "pot3"]


def gradient(*shape: int) -> Tensor:
    torch.manual_seed(0)
    x = torch.randn(shape).mul_(2).exp_().mul_(torch.randn(shape))
    odd = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 1e-42, -1e-42, 3e38])
    x.view(-1)[: min(8, x.numel() - 1)] = odd[: min(8, x.numel() - 1)]
    return x.to(DEVICE)


def check(name: str, x: Tensor, scale: Tensor) -> None:
    """The same numbers, the same signs of zeros, and NaN in the same places."""
    fmt, seed = formats.get(name), triton_kernels.new_seed(x.device)
    got = triton_kernels.drawn(fmt, x, scale, seed)
    uniform = triton_kernels.uniform(x, seed)
    expected = stochastic_powers(fmt, (x / scale).float(), uniform).to(x.dtype) * scale
    assert torch.equal(got.isnan(), expected.isnan())
    assert torch.equal(got.nan_to_num(0), expected.nan_to_num(0))
    assert torch.equal(got.nan_to_num(0).signbit(), expected.nan_to_num(0).signbit())
    assert (got.dtype, got.stride()) == (x.dtype, x.stride())


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (4096,), (4097,), (2, 3, 3000)], ids=str)
def test_the_kernel_is_the_operators(name: str, shape: tuple[int, ...]) -> None:
    x = gradient(*shape)
    for scale in (0.37, 1e-3, 1e38, torch.finfo(torch.float32).tiny, math.nan, math.inf):
        check(name, x, torch.tensor(scale, device=DEVICE))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_numbers_of_16_bits(dtype: torch.dtype) -> None:
    """By a power of two, as the interpreter cuts bfloat16 where GPUs round it; float16 by others too."""
    x = gradient(5000).to(dtype)
    for scale in (0.5, 2.0**-6, *([0.37] if dtype == torch.float16 or not INTERPRETED else [])):
        check("luq_fp4", x, torch.tensor(scale, device=DEVICE, dtype=dtype))


def test_other_layouts() -> None:
    """Dense ones keep their strides; of others the numbers are those of the contiguous tensor."""
    x, scale = gradient(4, 6, 5, 7), torch.tensor(0.5, device=DEVICE)
    for dense in (x, x.to(memory_format=torch.channels_last), x.permute(3, 1, 0, 2)):
        check("luq_fp4", dense, scale)
    seed, fmt = triton_kernels.new_seed(x.device), formats.get("luq_fp4")
    for other in (x[:, ::2], x[..., 1:], x[:, :1].expand(4, 6, 5, 7)):
        got = triton_kernels.drawn(fmt, other, scale, seed)
        expected = triton_kernels.drawn(fmt, other.contiguous(), scale, seed)
        assert torch.equal(got.nan_to_num(0), expected.nan_to_num(0))
    assert triton_kernels.drawn(fmt, x[:0], scale).shape == (0, 6, 5, 7)


def test_the_uniform_numbers() -> None:
    """Multiples of the step in [0, 1), evenly, others for another seed, and not the same in any two places."""
    x = torch.zeros(400_000, device=DEVICE)
    seed = triton_kernels.new_seed(x.device)
    uniform = triton_kernels.uniform(x, seed)
    assert bool((uniform / UNIFORM_STEP % 1 == 0).all())
    assert 0 <= float(uniform.min()) < 1e-4
    assert 1 - 1e-4 < float(uniform.max()) < 1
    counts = torch.histc(uniform, 64, 0, 1)
    assert float((counts - 6250).square().sum() / 6250) < 63 + 5 * math.sqrt(2 * 63)
    centred = (uniform - 0.5) * math.sqrt(12)
    for lag in (1, 2, 1024, 2048, 4096):
        assert abs(float((centred[lag:] * centred[:-lag]).mean())) < 5 / math.sqrt(400_000)
    assert torch.equal(uniform, triton_kernels.uniform(x, seed))
    assert float((uniform == triton_kernels.uniform(x, seed + 1)).float().mean()) < 1e-4


def test_the_seed_is_of_the_generator() -> None:
    x, scale = gradient(3000)[8:], torch.tensor(0.5, device=DEVICE)
    draws = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        draws.append(triton_kernels.drawn(formats.get("luq_fp4"), x, scale))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])


def test_a_gradient_has_its_mean() -> None:
    """Unbiased, over the whole range."""
    torch.manual_seed(0)
    x = torch.tensor([1.0, 0.3, 0.011, 0.004, -0.6, -0.0071, 0], device=DEVICE).repeat(20_000, 1)
    drawn = triton_kernels.drawn(formats.get("luq_fp4"), x, torch.tensor(1 / 64, device=DEVICE)).double()
    variance = torch.tensor([0, 0.01, 5.0875e-5, 4.65e-5, 0.04, 6.05275e-5, 0], dtype=torch.float64, device=DEVICE)
    assert bool(((drawn.mean(0) - x[0]).abs() <= 5 * (variance / len(x)).sqrt() + 1e-8).all())


COMPILE = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from ptq.training import triton_kernels

for dtype in ("fp32", "fp16", "bf16"):
    arguments = {"x_at": "*" + dtype, "out_at": "*" + dtype, "scale_at": "*" + dtype, "seed_at": "*i64", "size": "i64"}
    signature = arguments | {"top": "constexpr", "quarter": "constexpr"}
    source = ASTSource(triton_kernels._drawn, signature, {"top": 64.0, "quarter": 1024})
    print(compile(source, target=GPUTarget("cuda", 80, 32), options={"enable_fp_fusion": False}).asm["ptx"])
"""


def test_it_compiles_for_a_gpu_that_is_not_there(tmp_path: Path) -> None:
    """The interpreter takes more than the compiler does. The division is exact, and nothing is fused."""
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-W", "error", "-c", COMPILE]
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr) == (0, "")
    assert found.stdout.count("div.rn.f32") == 3 * 4 * 1024 // 128
    assert "fma." not in found.stdout
    assert "div.full" not in found.stdout


@pytest.mark.skipif(INTERPRETED, reason="the rule takes the kernel on a GPU only")
def test_the_rule_takes_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    x = gradient(3000)[8:]
    torch.manual_seed(0)
    expected = triton_kernels.drawn(formats.get("luq_fp4"), x, Aligned().scale(x.abs().max()))
    torch.manual_seed(0)
    assert torch.equal(Aligned()(x), expected)
    monkeypatch.setattr(powers, "_kernels", lambda: None)
    torch.manual_seed(0)
    assert not torch.equal(Aligned()(x), expected)
