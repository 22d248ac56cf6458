"""Rows in chunks: results are those of all rows at once, and nothing on the way is as large as the weight."""

from __future__ import annotations

import tracemalloc
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import helper, numpy_helper
from schemes import ALL, FEW, METHODS, curvature, gaussian, inputs
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from ptq import chunks
from ptq.formats import get
from ptq.ladder import Ladder
from ptq.lowering import Execution, SiteLowering, lower
from ptq.method import Request
from ptq.methods.multipoint import Multipoint
from ptq.model.capture import CaptureOptions, capture
from ptq.model.graph import Model
from ptq.qtensor import Blocks, QTensor, Term
from ptq.scheme import Scheme
from ptq.solve import Curvature


def uneven(groups: int, rows: int, columns: int) -> Tensor:
    """Rows far apart, some of them zeros."""
    weight = gaussian(groups, rows, columns) * torch.exp2(gaussian(groups, rows, 1, seed=3) * 3)
    weight[:, ::5] = 0
    return weight


def ladder(how: Scheme, weight: Tensor, curve: Curvature | None = None, method: str = "rtn") -> Ladder:
    curve = curve or Curvature.unknown(len(weight), weight.shape[-1])
    least = torch.linspace(1e-4, 0.1, weight.shape[0] * weight.shape[1])
    return METHODS[method].of(Request(how)).ladder(weight, curve, least_scale=least)


def check_same(one: Ladder, other: Ladder) -> None:
    assert torch.equal(one.error, other.error)
    assert torch.equal(one.power, other.power)
    for first, second in zip(sum(one.rungs, ()), sum(other.rungs, ()), strict=True):
        assert first.values.dtype == second.values.dtype
        assert torch.equal(first.values, second.values)
        assert torch.equal(first.scale, second.scale)
        for each in ((lambda t: t.zero_point), (lambda t: t.blocks and t.blocks.factors)):
            assert (each(first) is None) == (each(second) is None)
            assert each(first) is None or torch.equal(each(first), each(second))


def small_chunks(patch: pytest.MonkeyPatch, rows: int) -> None:
    patch.setattr(chunks, "_MOST_ELEMENTS", 1)
    patch.setattr(chunks, "_LEAST_ROWS", rows)


@pytest.mark.parametrize("name", FEW)
@pytest.mark.parametrize("method", ["rtn", "hqq"])
@pytest.mark.parametrize("shape", [(1, 83, 70), (3, 20, 64)])
def test_chunks_of_a_weight_are_rounded_as_all_of_it(
    name: str, method: str, shape: tuple[int, int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    weight = uneven(*shape)
    whole = ladder(FEW[name], weight, method=method)
    small_chunks(monkeypatch, 16)
    check_same(ladder(FEW[name], weight, method=method), whole)


@pytest.mark.parametrize("name", ["int4-channel", "int4-32", "uint4-32", "nf4-tensor", "nvfp4"])
def test_scales_are_found_in_chunks_with_what_is_known_of_inputs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    weight, curve = uneven(1, 83, 40), curvature(inputs(90, 40))
    whole = METHODS["gptq"].of(Request(FEW.get(name, ALL[name]), has_data=True)).ladder(weight, curve)
    small_chunks(monkeypatch, 16)
    check_same(METHODS["gptq"].of(Request(ALL[name], has_data=True)).ladder(weight, curve), whole)


def test_a_weight_may_lie_in_memory_by_column() -> None:
    weight = uneven(1, 200, 96)
    turned = weight.mT.contiguous().mT
    for name in ("int4-channel", "int4-32", "uint4-channel"):
        check_same(ladder(FEW[name], turned), ladder(FEW[name], weight))


class Largest(TorchDispatchMode):
    """How many bytes the largest tensor takes that is made; what is seen of another has none of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and not func.is_view:
            self.bytes = max(self.bytes, made.numel() * made.element_size())
        return made


@pytest.mark.parametrize("name", ["int4-channel", "int4-tensor", "int4-32", "uint4-channel", "uint4-32"])
def test_no_tensor_on_the_way_is_half_as_large_as_the_weight(name: str) -> None:
    weight = gaussian(1, 2048, 512)
    with Largest() as largest:
        ladder(ALL[name], weight)
    assert largest.bytes < 0.5 * weight.numel() * 4


def product(weight: np.ndarray) -> Model:
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="product")
    ends = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", "t", None]) for name in "xy"]
    graph = helper.make_graph([node], "g", ends[:1], ends[1:], [numpy_helper.from_array(weight, "w")])
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
    return Model.of(capture(made, CaptureOptions(), None))


@pytest.mark.parametrize(
    ("name", "how"),
    [("int4-32", Execution.BLOCKS), ("int4-channel", Execution.DYNAMIC), ("int3-channel", Execution.WEIGHTS)],
)
def test_a_weight_is_stored_without_wider_copies(name: str, how: Execution) -> None:
    weight = gaussian(1, 1024, 512)
    model, made = product(weight[0].T.numpy()), ladder(ALL[name], weight)
    (site,) = model.sites
    stored = made.pick(made.all_on(0))
    tracemalloc.start()
    lower(model, {site.name: SiteLowering(how, stored)}, {})
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.5 * weight.numel() * 4


def mixed(rows: int, columns: int) -> QTensor:
    """Rows of one or two points in groups, and one of some columns."""
    some, factors = torch.arange(0, rows, 3), torch.randint(1, 4, (rows, columns // 8)).float()
    scale = torch.rand(rows) + 0.5
    numbers = gaussian(rows, columns).round().clamp(-7, 7).to(torch.int8)
    steps = get("steps4")
    return QTensor(
        (
            Term(numbers, scale * 15, get("int4"), None, Blocks(8, factors, steps)),
            Term(numbers[some], scale[some] * 15, get("int4"), some, Blocks(8, factors[some], steps)),
        ),
        (rows, columns),
    )


def test_sums_of_terms_are_the_same_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    made, fits = mixed(50, 32), mixed(50, 32).fits_int8
    dense, weight = made.dequantize(), gaussian(1, 50, 32)
    points = Multipoint(Scheme(get("int4")), rounding="nearest").ladder(weight, Curvature.unknown(1, 32))
    rung = torch.arange(50) % len(points.rungs)
    picked = points.pick(rung)
    before = picked.dequantize(), picked.fits_int8
    small_chunks(monkeypatch, 7)
    assert torch.equal(made.dequantize(), dense)
    assert made.fits_int8 == fits
    assert torch.equal(picked.dequantize(), before[0])
    assert picked.fits_int8
    assert before[1]


@pytest.mark.parametrize(("rows", "columns"), [(0, 3), (1, 10), (63, 1 << 20), (64, 5000), (1000, 4096), (10_000, 300)])
def test_chunks_cover_all_rows_once(rows: int, columns: int) -> None:
    found = chunks.chunks(rows, columns)
    assert [row for at in found for row in range(at.start, at.stop)] == list(range(rows))
    sizes = [at.stop - at.start for at in found]
    assert len(sizes) == 1 or min(sizes) >= 64
