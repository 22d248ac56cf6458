"""One term a row: ordinary quantization, of any scheme, as the ladder of one rung that methods return."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from ptq.chunks import weight_chunks
from ptq.errors import OptionError
from ptq.fitted import Fitted
from ptq.formats import INT8_MAX, Format
from ptq.formats.codebook import PartFormat
from ptq.ladder import Ladder
from ptq.qtensor import Blocks, Term
from ptq.rounding import round_to
from ptq.scales import ScaleGrid
from ptq.scheme import Scheme
from ptq.solve.curvature import Curvature
from ptq.solve.grouping import Grouping
from ptq.solve.groups import Refine, solve_groups
from ptq.solve.roundings import NEAREST, RowRounding
from ptq.solve.search import limits, scale_grid, solve
from ptq.solve.solution import Solution


def one_term(
    weight: Tensor,
    scheme: Scheme,
    curvature: Curvature,
    rounding: RowRounding,
    *,
    most: int = INT8_MAX,
    least_scale: Tensor | None = None,
    grid: ScaleGrid | None = None,
    refine: Refine | None = None,
) -> Ladder:
    """Quantize a weight `(groups, rows, in)`, rounding as said.

    Numbers are kept up to `most` steps where a row has one scale; `least_scale (out,)` bounds the scales of the rows
    from below. Scales, on `grid` where that is given, and zero points are those of least squared error, or what
    `refine` makes of them.
    """
    if isinstance(scheme.format, Fitted):
        scheme = _fitted(weight, scheme, scheme.format, curvature, most)
    if not curvature.keeps(scheme.format.span):
        raise OptionError(
            f"{scheme.format.name} has {scheme.format.span} numbers in a code, which the order of the curvature takes "
            f"apart; give Curvature.of that span"
        )
    least = None if least_scale is None else least_scale.reshape(*weight.shape[:2], 1)
    fmt = scheme.format if scheme.group else _clipped(scheme.format, most)
    if refine is None and scheme.symmetric and scheme.group is None and not scheme.per_tensor:
        grid = grid or scale_grid(weight, limits(fmt), curvature, least)
        found = solve(weight, fmt, curvature, rounding, grid)
    else:
        found, grid = solve_groups(weight, replace(scheme, format=fmt), curvature, rounding, least, grid, refine=refine)
    power = curvature.power(weight).reshape(-1)
    return Ladder(((_term(found, scheme, grid),),), found.error.reshape(1, -1), power)


def _fitted(weight: Tensor, scheme: Scheme, fitted: Fitted, curvature: Curvature, most: int) -> Scheme:
    """The scheme with the format for this weight: of several the one of least error when rounded to nearest."""
    choices = [replace(scheme, format=fmt) for fmt in fitted.formats(weight)]
    if len(choices) == 1:
        return choices[0]
    ladders = (one_term(weight, choice, curvature, NEAREST, most=most) for choice in choices)
    errors = [float(ladder.error.double().sum()) for ladder in ladders]
    return choices[errors.index(min(errors))]


def _clipped(fmt: Format, most: int) -> Format:
    """The numbers up to so many steps, of a format that integer kernels compute with."""
    return PartFormat.of(fmt, most * fmt.step) if fmt.fits_int8 and fmt.reach > most else fmt


def _term(found: Solution, scheme: Scheme, grid: ScaleGrid) -> Term:
    grouping = Grouping.of(found.values.shape[-1], scheme.group)
    values, zero = found.values, None
    if found.zero is not None:
        parts = weight_chunks(values)
        values = torch.cat([(values[:, at] + grouping.wide(found.zero[:, at])).to(torch.uint8) for at in parts], 1)
        zero = found.zero.flatten(0, 1).to(torch.uint8)
    values = values.flatten(0, 1)
    if scheme.factors is None:
        return Term(values, found.scale.reshape(-1), scheme.format, zero_point=zero)
    unit = torch.as_tensor(grid.unit, dtype=torch.float32).expand(*found.scale.shape[:2], 1)
    factors = round_to(scheme.factors, found.scale / unit).flatten(0, 1)
    blocks = Blocks(grouping.size, factors, scheme.factors)
    return Term(values, unit.reshape(-1).contiguous(), scheme.format, None, blocks, zero)
