"""Formats of vectors: their books, rounding to them, what methods make of them, and what is in the file."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
import torch
from schemes import check_contract, curvature, gaussian, inputs
from tiny_models import images
from torch import Tensor

import ptq
from ptq import scheme
from ptq.errors import OptionError
from ptq.formats import INT8_MAX, PORTABLE_MAX
from ptq.method import Request
from ptq.methods.multipoint import Multipoint
from ptq.qtensor import QTensor, Term
from ptq.recipe import METHODS, Recipe
from ptq.recipe.tables import rounded
from ptq.rounding import Rounding, nearest_vectors, round_to
from ptq.solve import NEAREST, ROUNDINGS, Curvature, one_term
from ptq.vectors import VECTORS, VectorFormat

ALL = list(VECTORS)
TAKERS = ["rtn", "gptq", "hqq"]


def vectors_of(numbers: Tensor, fmt: VectorFormat) -> set[tuple[int, ...]]:
    """Those that rows `(rows, in)` are made of, of which the last may be a part."""
    rows = numbers.int().tolist()
    return {tuple(row[start : start + fmt.span]) for row in rows for start in range(0, len(row), fmt.span)}


def are_members(numbers: Tensor, fmt: VectorFormat) -> bool:
    known = {vector[:size] for vector in fmt.book for size in range(1, fmt.span + 1)}
    return vectors_of(numbers, fmt) <= known


@pytest.mark.parametrize("name", ALL)
def test_a_book_is_whole_sorted_and_has_a_zero(name: str) -> None:
    fmt = VECTORS[name]
    assert name == f"lloyd{fmt.bits}x{fmt.span}"
    assert len(fmt.book) == 2 ** (fmt.bits * fmt.span) == len(set(fmt.book))
    assert list(fmt.book) == sorted(fmt.book)
    assert (0,) * fmt.span in fmt.book
    assert fmt.reach <= (PORTABLE_MAX if fmt.bits < 5 else INT8_MAX)


def test_a_book_of_another_length_or_order_is_refused() -> None:
    for book in (((0, 0),), ((1, 0), (0, 0), (2, 0), (3, 0)), ((0, 0), (0, 0), (1, 0), (1, 1))):
        with pytest.raises(OptionError, match="needs 4 vectors in ascending order"):
            VectorFormat("mine", 1, book)


@pytest.mark.parametrize(
    ("name", "least"), [("lloyd2x4", 9.6), ("lloyd3x2", 14.4), ("lloyd4x2", 20.0), ("lloyd5x2", 25.8)]
)
def test_its_error_is_what_was_measured_when_it_was_made(name: str, least: float) -> None:
    """On numbers of the density `exp(-|x|^1.3)`; single numbers have 8.8, 13.2, 18.8 and 24.3 dB at best."""
    rng = np.random.default_rng(7)
    x = rng.gamma(1 / 1.3, 1, (2000, 64)) ** (1 / 1.3) * rng.choice([-1, 1], (2000, 64))
    weight = torch.from_numpy(x).float()[None]
    ladder = one_term(weight, scheme.parse(name), Curvature.unknown(1, 64), NEAREST)
    assert 10 * torch.log10(ladder.power.sum() / ladder.error.sum()) > least


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("columns", [1, 7, 8, 11])
def test_rounding_goes_to_the_nearest_vector_and_at_the_end_to_the_nearest_beginning_of_one(
    name: str, columns: int
) -> None:
    fmt = VECTORS[name]
    x = 15 * gaussian(5, columns)
    made = round_to(fmt, x)
    assert made.shape == x.shape
    assert made.dtype == x.dtype
    for start in range(0, columns, fmt.span):
        part = x[:, start : start + fmt.span]
        book = torch.tensor(fmt.book)[:, : part.shape[1]].float()
        least = (part[:, None] - book).norm(dim=2).min(1)[0]
        torch.testing.assert_close((part - made[:, start : start + fmt.span]).norm(dim=1), least, rtol=1e-4, atol=1e-4)
    assert are_members(made, fmt)
    torch.testing.assert_close(round_to(fmt, made), made)
    assert round_to(fmt, torch.zeros(0, columns)).shape == (0, columns)
    with pytest.raises(OptionError, match="stochastic rounding is between two numbers"):
        round_to(fmt, x, Rounding.STOCHASTIC)


@pytest.mark.parametrize("name", ALL)
def test_with_a_metric_the_nearest_is_that_of_least_error_in_it(name: str) -> None:
    fmt = VECTORS[name]
    x, root = (
        15 * gaussian(2, 9, fmt.span),
        torch.linalg.cholesky(torch.eye(fmt.span) + 0.9 * torch.ones(fmt.span, fmt.span)),
    )
    roots = torch.stack([root, 1e-9 * root.mT])
    made = nearest_vectors(fmt)(x, roots)
    book = torch.tensor(fmt.book).float()
    for group in range(2):
        found = ((x[group] - made[group]) @ roots[group]).norm(dim=1)
        least = ((x[group][:, None] - book) @ roots[group]).norm(dim=2).min(1)[0]
        torch.testing.assert_close(found, least, rtol=1e-3, atol=1e-12)


@pytest.mark.parametrize("columns", [2, 7, 32, 33, 150])
@pytest.mark.parametrize("group", ["channel", "tensor", "32"])
@pytest.mark.parametrize("method", TAKERS)
@pytest.mark.parametrize("name", ALL)
def test_methods_keep_their_contract(name: str, method: str, group: str, columns: int) -> None:
    how = scheme.parse(name, group)
    weight = gaussian(1, 6, columns)
    weight[0, 3] = 0
    curve = curvature(inputs(300, columns), span=how.format.span)
    ladder = METHODS[method].METHOD.of(Request(how, has_data=True)).ladder(weight, curve)
    made = ladder.pick(ladder.all_on(0))
    term = check_contract(made, how, weight)
    assert are_members(term.values, VECTORS[name])
    assert (made.dequantize()[3] == 0).all()
    assert ladder.error.sum() < ladder.power.sum()
    cells = -(-columns // VECTORS[name].span)
    assert term.storage_bits == 6 * cells * VECTORS[name].span * VECTORS[name].bits
    assert how.stored_bits(6, columns) >= term.storage_bits


@pytest.mark.parametrize("name", ALL)
def test_error_feedback_and_settling_make_the_output_error_less(name: str) -> None:
    fmt = VECTORS[name]
    weight, curve = gaussian(2, 16, 64), curvature(inputs(400, 64), 2, span=fmt.span)
    nearest, informed = (
        float(one_term(weight, scheme.parse(name), curve, ROUNDINGS[each]).error.sum())
        for each in ("nearest", "hessian")
    )
    assert informed < 0.9 * nearest


@pytest.mark.parametrize("name", ["lloyd3x2", "lloyd4x2"])
def test_pairs_have_less_output_error_than_single_numbers_of_as_many_bits(name: str) -> None:
    weight, x = gaussian(1, 32, 128), inputs(600, 128)
    errors = [
        float(one_term(weight, scheme.parse(each), curvature(x, span=2), ROUNDINGS["hessian"]).error.sum())
        for each in (name, name.removesuffix("x2"))
    ]
    assert errors[0] < 0.85 * errors[1]


def test_an_order_that_takes_vectors_apart_is_refused() -> None:
    with pytest.raises(OptionError, match="which the order of the curvature takes apart"):
        one_term(gaussian(1, 4, 16), scheme.parse("lloyd4x2"), curvature(inputs(99, 16)), NEAREST)


def test_neighbours_stay_together_and_what_is_no_whole_vector_comes_last() -> None:
    power = torch.tensor([1.0, 1, 9, 0, 4, 4, 99])
    curve = Curvature.of(torch.diag(power)[None].double(), 1000, span=2)
    assert curve.order[0].tolist() == [2, 3, 4, 5, 0, 1, 6]
    assert curve.keeps(2)
    assert curve.keeps(1)
    assert not curve.keeps(4)
    assert Curvature.unknown(2, 7).keeps(4)


@pytest.mark.parametrize(
    ("name", "options", "portable", "mixes"),
    [
        ("lloyd4x2", {"bits": 4.1}, False, ["lloyd3x2", "lloyd4x2", "lloyd5x2", "int4+int2", "int4+int4"]),
        ("lloyd4x2", {}, True, ["lloyd4x2", "int4+int2", "int4+int4"]),
        ("lloyd3x2", {}, False, ["lloyd3x2", "lloyd4x2", "int3+int2", "int3+int3", "int3+int3+int2"]),
        ("lloyd4x2", {"points": 2}, False, ["lloyd4x2", "int4+int4"]),
    ],
)
def test_points_of_a_row_are_vectors_alone_and_digits_together(
    name: str, options: dict[str, float], portable: bool, mixes: list[str]
) -> None:
    method = Multipoint.of(Request(scheme.parse(name), has_data=True, portable=portable, options=options))
    assert ["+".join(fmt.name for fmt in mix) for mix in method.sums()] == mixes
    ladder = method.ladder(gaussian(1, 12, 72), curvature(inputs(300, 72), span=VECTORS[name].span))
    error = ladder.error.double().sum(1)
    assert (error.diff() < 0).all(), error
    mixed = ladder.pick(torch.arange(12) % len(mixes))
    assert mixed.fits_int8
    assert set(mixed.mixes) == set(mixes)


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"method": "gpfq"}, "--method gpfq rounds single numbers, and lloyd4x2 has 2 in a code"),
        ({"method": "adaround"}, "--method adaround rounds single numbers"),
        ({"method": "multipoint", "rounding": "adaround"}, "--rounding adaround rounds single numbers"),
        ({"method": "multipoint", "search": "greedy"}, "greedy points are signed integers"),
        ({"method": "ocs"}, "ocs splits columns of int2 to int7"),
    ],
)
def test_what_goes_by_single_numbers_is_refused(options: dict[str, str], why: str) -> None:
    with pytest.raises(OptionError, match=why):
        Recipe.of({"weights": "lloyd4x2", **options})


def test_codes_of_embedding_tables_are_bytes() -> None:
    with pytest.raises(OptionError, match="codes of lloyd5x2 take 10 bits"):
        rounded("lloyd5x2")
    assert rounded("lloyd4x2").scheme == scheme.parse("lloyd4x2", "32")


@pytest.mark.parametrize("name", ALL)
def test_the_file_computes_with_them_in_int8(convolutions: onnx.ModelProto, name: str) -> None:
    made = ptq.quantize(convolutions, {"image": images(16)}, weights=name, method="gptq")
    assert all(layer.integer for layer in made.report.layers)
    parity = made.report.file.parity_db
    assert parity is not None
    assert parity > 50


def test_a_term_counts_what_the_last_vector_of_a_row_has_to_spare() -> None:
    term = Term(torch.zeros(3, 5), torch.ones(3), VECTORS["lloyd4x2"])
    assert QTensor((term,), (3, 5)).value_bits == 3 * 3 * 8
