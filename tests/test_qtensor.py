"""Sums of terms: what they add up to, what they cost, and when they are one integer."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from ptq import formats
from ptq.errors import OptionError
from ptq.methods.multipoint.greedy import greedy_rows
from ptq.methods.multipoint.radix import Radix
from ptq.qtensor import QTensor, Term

INT4, INT3, INT2 = (formats.get(name) for name in ("int4", "int3", "int2"))


def radix_tensor(seed: int, shape: tuple[int, int], fmt: formats.Format, most: int) -> tuple[QTensor, Tensor, Tensor]:
    """A tensor of 1 to `most` points per row, its integers and its scales."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.randint(1, most + 1, (shape[0],), generator=generator)
    systems = [Radix.of([fmt] * int(n)) for n in points]
    limits = torch.tensor([system.limit for system in systems])
    integers = (torch.rand(shape, generator=generator) * (2 * limits + 1)[:, None]).floor() - limits[:, None]
    scale = (torch.rand(shape[0], generator=generator) + 0.01).bfloat16().float()
    terms = []
    for k in range(int(points.max())):
        rows = (points > k).nonzero()[:, 0]
        planes = torch.stack([systems[row].split(integers[row])[k] for row in rows.tolist()])
        worth = torch.tensor([systems[row].worths[k] for row in rows.tolist()])
        terms.append(Term(planes.to(torch.int8), scale[rows] * worth, fmt, None if k == 0 else rows))
    return QTensor(tuple(terms), shape), integers.long(), scale


@given(st.integers(0, 10_000), st.sampled_from([(INT4, 2), (INT3, 2), (INT2, 5)]))
def test_radix_points_are_one_scale_times_integers(seed: int, kind: tuple[formats.Format, int]) -> None:
    fmt, most = kind
    tensor, integers, scale = radix_tensor(seed, (5, 3), fmt, most)
    assert tensor.integer_ratios() == (1, *[2 * int(fmt.max) + 1] * (len(tensor.terms) - 1))
    assert torch.equal(tensor.integers(), integers)
    assert torch.equal(tensor.finest_scale(), scale)
    assert torch.equal(tensor.dequantize(), scale[:, None] * integers.float())
    assert tensor.dequantize().dtype == torch.float32


def test_bits_count_planes_indices_and_one_scale_per_row() -> None:
    """Four rows of 10 int4 weights, two with a second point: 160 + 80 planes, 4 bits for which, 4 x 16 scales."""
    scale = torch.tensor([1.0, 0.5, 0.375, 2.0])
    rows = torch.tensor([1, 3])
    first = Term(torch.ones(4, 10), scale * torch.tensor([1, 15, 1, 15]), INT4)
    second = Term(-torch.ones(2, 10), scale[rows], INT4, rows)
    tensor = QTensor((first, second), (4, 10))
    assert tensor.storage_bits == 160 + 80 + 4 + 64
    assert tensor.bits_per_weight == 7.7
    assert tensor.points.tolist() == [1, 2, 1, 2]
    assert tensor.integers()[:, 0].tolist() == [1, 14, 1, 14]


def test_scales_that_bfloat16_cannot_hold_count_as_float32() -> None:
    third = Term(torch.ones(4, 2), torch.full((4,), 1 / 3), INT4)
    assert QTensor((third,), (4, 2)).storage_bits == 4 * 2 * 4 + 4 * 32


@pytest.mark.parametrize(("stored", "bits"), [(torch.bfloat16, 16), (torch.float32, 32)])
def test_free_scales_are_all_stored(stored: torch.dtype, bits: int) -> None:
    rows = torch.tensor(np.random.default_rng(0).normal(size=(8, 16)))
    found = greedy_rows(rows, 3, 2, stored=stored)
    terms = tuple(Term(point.integers, point.scale.float(), INT3) for point in found)
    tensor = QTensor(terms, (8, 16))
    assert tensor.integer_ratios() is None
    assert tensor.storage_bits == 2 * (8 * 16 * 3 + 8 * bits)
    expected = sum((point.dequantized() for point in found), torch.zeros(8, 16, dtype=torch.float64))
    assert torch.equal(tensor.dequantize(), expected.float())
    with pytest.raises(OptionError, match="no integer ratio; use radix points"):
        tensor.integers()


@pytest.mark.parametrize(("out", "bits"), [(256, 8), (257, 16), (65536, 16), (65537, 32)])
def test_indices_are_as_wide_as_the_rows_need(out: int, bits: int) -> None:
    first = Term(torch.ones(out, 1), torch.full((out,), 3.0).index_fill(0, torch.tensor(0), 6.0), INT2)
    second = Term(torch.ones(1, 1), torch.ones(1), INT2, torch.tensor([out - 1]))
    assert QTensor((first, second), (out, 1)).storage_bits == 2 * (out + 1) + bits + 16 * out


@pytest.mark.parametrize(
    ("coarse", "fine", "ratio"),
    [
        ([15.0, 30.0], [1.0, 2.0], 15),
        ([15.0, 30.0], [1.0, 2.0000002], None),
        ([15.0, 28.0], [1.0, 2.0], None),
        ([2.5, 2.5], [1.0, 1.0], None),
        ([1.0, 1.0], [1.0, 1.0], 1),
        ([0.25, 0.25], [1.0, 1.0], None),
        ([0.0, 0.0], [1.0, 1.0], None),
        ([0.0, 8.0], [0.0, 1.0], 8),
        ([0.0, 0.0], [0.0, 0.0], 1),
        ([3.0, 8.0], [0.0, 1.0], None),
        ([3.0, 3.0], [0.0, 0.0], None),
    ],
)
def test_a_ratio_is_an_integer_and_the_same_in_every_row(
    coarse: list[float], fine: list[float], ratio: int | None
) -> None:
    terms = tuple(Term(torch.ones(2, 1), torch.tensor(scale), INT4) for scale in (coarse, fine))
    assert QTensor(terms, (2, 1)).integer_ratios() == (None if ratio is None else (1, ratio))


def test_rows_may_end_in_different_formats() -> None:
    """Ratio 3 to a last point of int2, 15 to one of int4; 32 + 4 + 8 in planes, 2 x 4 for which rows, 4 x 8 scales."""
    two, four = torch.tensor([2]), torch.tensor([0])
    first = Term(torch.full((4, 2), 2.0), torch.tensor([15.0, 1.0, 3.0, 1.0]), INT4)
    terms = (
        first,
        Term(torch.ones(1, 2), torch.ones(1), INT2, two),
        Term(-torch.ones(1, 2), torch.ones(1), INT4, four),
    )
    tensor = QTensor(terms, (4, 2))
    assert tensor.integer_ratios() == (1, 3, 15)
    assert tensor.integers()[:, 0].tolist() == [29, 2, 7, 2]
    assert tensor.points.tolist() == [2, 1, 2, 1]
    assert tensor.mixes == {"int4+int4": 1, "int4": 2, "int4+int2": 1}
    assert tensor.storage_bits == 32 + 4 + 8 + 8 + 32


def test_terms_of_separate_rows_need_no_ratio() -> None:
    one, other = torch.tensor([0]), torch.tensor([1])
    terms = (Term(torch.ones(1, 1), torch.ones(1), INT4, one), Term(torch.ones(1, 1), torch.ones(1), INT4, other))
    tensor = QTensor(terms, (3, 1))
    assert tensor.integer_ratios() == (1, 1)
    assert tensor.points.tolist() == [1, 1, 0]
    assert tensor.dequantize().tolist() == [[1.0], [1.0], [0.0]]


def test_a_term_may_cover_some_columns() -> None:
    """The second term: 2 x 2 int4, two of three columns as 3 bits; the third of one row and one column."""
    both, scale = torch.tensor([0, 2]), torch.tensor([0.5, 2.0])
    first = Term(torch.full((2, 3), 5.0), scale, INT4)
    second = Term(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), scale, INT4, columns=both)
    third = Term(torch.full((1, 1), 7.0), scale[1:], INT4, torch.tensor([1]), columns=torch.tensor([2]))
    tensor = QTensor((first, second, third), (2, 3))
    assert tensor.integer_ratios() == (1, 1, 1)
    assert tensor.integers().tolist() == [[6, 5, 7], [8, 5, 16]]
    assert tensor.dequantize().tolist() == [[3, 2.5, 3.5], [16, 10, 32]]
    assert tensor.fits_int8
    assert tensor.storage_bits == 4 * (6 + 4 + 1) + 3 + (2 + 3) + 2 * 8
    assert list(tensor.mixes) == ["int4+int4 of some columns", "int4+int4 of some columns+int4 of some columns"]


def test_terms_must_fit() -> None:
    values, scale = torch.ones(2, 3), torch.ones(2)
    with pytest.raises(OptionError, match=r"of a term are \(2, 3\), \(3,\); give"):
        Term(values, torch.ones(3), INT4)
    with pytest.raises(OptionError, match=r"of a term are \(2, 3\), \(2,\), \(1,\); give"):
        Term(values, scale, INT4, torch.tensor([0]))
    with pytest.raises(OptionError, match="repeat or descend"):
        Term(values, scale, INT4, torch.tensor([1, 1]))
    with pytest.raises(OptionError, match="float64"):
        Term(values, scale.double(), INT4)
    for shape, rows in (((3, 3), None), ((2, 4), None), ((2, 3), [0, 2]), ((2, 3), [-1, 1])):
        term = Term(values, scale, INT4, None if rows is None else torch.tensor(rows))
        with pytest.raises(OptionError, match="does not fit a tensor"):
            QTensor((term,), shape)
    for columns in ([0, 1], [0, 1, 4], [-1, 1, 2]):
        with pytest.raises(OptionError, match="does not fit a tensor"):
            QTensor((Term(values, scale, INT4, columns=torch.tensor(columns)),), (2, 4))
    with pytest.raises(OptionError, match="the columns of a term repeat or descend"):
        Term(values, scale, INT4, columns=torch.tensor([2, 1, 0]))
    with pytest.raises(OptionError, match="cover all columns"):
        Term(values, scale, INT4, zero_point=torch.zeros(2, 1), columns=torch.arange(3))
