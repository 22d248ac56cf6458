"""All schemes, weights to quantize by them, and what holds for any result."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ptq import formats, scheme
from ptq.errors import OptionError
from ptq.formats import INT8_MAX
from ptq.method import OneTerm, Request
from ptq.qtensor import QTensor, Term
from ptq.registry import Modules
from ptq.scheme import SCHEMES, Scheme
from ptq.solve import ROUNDINGS, Curvature

METHODS = {name: each.METHOD for name, each in Modules("ptq.methods").items() if issubclass(each.METHOD, OneTerm)}
"""Those that take any scheme."""

INFORMED = [name for name, method in METHODS.items() if ROUNDINGS[method.ROUNDING].needs]
"""Those that round by what is known of the inputs."""

GROUPS = ("channel", "tensor", "16", "32", "64")
WEIGHTS = [name for name, fmt in formats.FORMATS.items() if fmt.min <= 0 <= fmt.max]


def schemes() -> Iterator[tuple[str, Scheme]]:
    """All of them, by name; `i` stands before the groups that int8 kernels take."""
    for name in WEIGHTS:
        for group in GROUPS:
            yield f"{name}-{group}", scheme.parse(name, group)
            if group.isdigit():
                try:
                    yield f"{name}-i{group}", scheme.parse(name, group, integer=True)
                except OptionError:
                    continue
    yield from SCHEMES.items()


ALL = dict(schemes())


def gaussian(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def inputs(samples: int, columns: int, seed: int = 1) -> Tensor:
    """Correlated inputs `(samples, columns)` with a mean."""
    return gaussian(samples, columns, seed=seed) @ gaussian(columns, columns, seed=2) / columns**0.5 + 0.5


def curvature(x: Tensor, groups: int = 1, span: int = 1) -> Curvature:
    gram = x.double().T @ x.double() / len(x)
    return Curvature.of(gram.expand(groups, -1, -1), len(x), span)


def quantized(
    method: str, how: Scheme, weight: Tensor, curve: Curvature, *, portable: bool = False, least: Tensor | None = None
) -> QTensor:
    ladder = METHODS[method].of(Request(how, has_data=True, portable=portable)).ladder(weight, curve, least_scale=least)
    return ladder.pick(ladder.all_on(0))


def members(numbers: Tensor, fmt: formats.Format) -> bool:
    return bool(torch.isin(numbers.double(), torch.tensor(fmt.values, dtype=torch.float64)).all())


def check_contract(made: QTensor, how: Scheme, weight: Tensor) -> Term:
    """What holds for any weight `(groups, rows, in)`."""
    (term,) = made.terms
    columns = weight.shape[-1]
    assert made.shape == (weight.shape[0] * weight.shape[1], columns)
    dense = made.dequantize()
    assert (dense.shape, dense.dtype) == (made.shape, torch.float32)
    assert dense.isfinite().all()
    assert term.format == how.format
    assert members(term.values, how.format)
    assert term.scale.isfinite().all()
    assert (term.scale > 0).all()
    assert (term.zero_point is None) == how.symmetric
    assert term.zero_point is None or members(term.zero_point, how.format)
    assert (term.blocks is None) == (how.group is None)
    if how.factors is not None:
        assert term.blocks is not None
        assert term.blocks.format == how.factors
        assert term.blocks.size == min(how.group or 0, columns)
        assert members(term.blocks.factors, how.factors)
        assert (term.blocks.factors > 0).all()
    if how.fits_int8:
        assert made.fits_int8
        assert made.integers().abs().max() <= INT8_MAX
    if how.per_tensor:
        assert (term.scale == term.scale[0]).all()
    return term


FEW = {
    name: ALL[name]
    for name in (
        *("int4-channel", "int8-tensor", "int4-32", "int2-i16", "int4-i32", "uint4-channel", "uint4-tensor"),
        *("uint2-16", "uint8-64", "uint4-i32", "nf4-32", "posit8_2-tensor", "fp8_e5m2-channel", "fp4_e2m1-i16"),
        *SCHEMES,
    )
}
