"""Roundings of rows: the papers' numbers, brute force, and what each promises."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from schemes import FEW, INFORMED, METHODS, curvature, gaussian, inputs, quantized
from torch import Tensor

from ptq import formats
from ptq.errors import OptionError
from ptq.formats import Format
from ptq.formats.integer import Integers
from ptq.method import Request
from ptq.methods.multipoint import Multipoint
from ptq.rounding import neighbours, round_to
from ptq.scheme import Scheme, parse
from ptq.solve import ROUNDINGS, Curvature, learned
from ptq.solve.feedback import nearest_rows, round_rows
from ptq.solve.learned import inverse, learn_rows, penalty, rectified
from ptq.solve.path import follow_rows, path

TERNARY = Integers.up_to(1)
ONE = torch.ones(1, 1, 1)


def undamped(x: Tensor) -> Curvature:
    """The second moment of inputs `(samples, in)` as it is, in their order."""
    gram = (x.T @ x)[None]
    return Curvature(torch.arange(x.shape[1])[None], (gram, gram))


def test_gpfq_gives_the_numbers_of_its_algorithm() -> None:
    """Worked out by hand for two samples and a ternary alphabet."""
    x = torch.tensor([[1, 0.9, 0.8, 1.1], [0.8, 1, 0.9, 1.2]], dtype=torch.float64)
    rows = torch.full((1, 1, 4), 0.4, dtype=torch.float64)
    values, arguments = path(rows, ONE.double(), TERNARY, undamped(x))
    torch.testing.assert_close(
        arguments[0, 0],
        torch.tensor([0.4, 0.7756906077, 0.1489655172, 0.5109433962], dtype=torch.float64),
        rtol=0,
        atol=5e-11,
    )
    assert values.tolist() == [[[0, 1, 0, 1]]]
    assert float((x @ (rows - values)[0, 0]).norm()) == pytest.approx(0.8, abs=1e-12)
    assert nearest_rows(rows, ONE, TERNARY).tolist() == [[[0, 0, 0, 0]]]
    assert float((x @ rows[0, 0]).norm()) == pytest.approx(2.1780725424, abs=5e-11)


@pytest.mark.parametrize("name", ["int2", "int4", "fp4_e2m1", "nf4", "uint4"])
def test_gpfq_is_the_greedy_choice_over_the_inputs(name: str) -> None:
    """Against the paper's definition, which looks at the samples and at every number; dead inputs are given a 0."""
    fmt, x, columns = formats.get(name), gaussian(30, 150, seed=3).double(), 150
    x[:, ::7] = 0
    rows, scale = gaussian(1, 3, columns).double(), torch.tensor([0.2, 0.3, 0.5])[None, :, None].double()
    zero = torch.full_like(scale, 7) if fmt.min == 0 else None
    got = follow_rows(rows, scale, fmt, undamped(x), zero).values
    numbers = torch.tensor(fmt.values).double() - (0 if zero is None else 7)
    for row in range(3):
        u = torch.zeros(30).double()
        for t in range(columns):
            u = u + rows[0, row, t] * x[:, t]
            left = (u[:, None] - numbers * scale[0, row] * x[:, t, None]).norm(dim=0)
            best = 0.0 if not x[:, t].any() else float(numbers[left.argmin()])
            assert float(got[0, row, t]) == best, (row, t)
            u = u - best * scale[0, row] * x[:, t]


def test_inputs_that_were_never_active_go_to_the_nearest_with_the_usual_damping() -> None:
    x, rows = inputs(300, 24), gaussian(1, 4, 24)
    x[:, 5:9] = 0
    curve, scale = curvature(x), torch.full((1, 4, 1), 0.2)
    got = curve.restored(follow_rows(curve.arranged(rows), scale, Integers.up_to(7), curve).values)
    assert torch.equal(got[..., 5:9], nearest_rows(rows, scale, Integers.up_to(7))[..., 5:9])


def test_adaround_has_the_numbers_of_its_paper() -> None:
    start = inverse(torch.tensor([0.1, 0.25, 0.9], dtype=torch.float64))
    expected = torch.tensor([-1.6094379124, -0.8873031950, 1.6094379124], dtype=torch.float64)
    torch.testing.assert_close(start, expected, rtol=0, atol=5e-11)
    assert rectified(torch.tensor([-3.0, 0.0, 3.0])).tolist() == [0, 0.5, 1]
    quarter = torch.tensor(0.25).double()
    assert float(penalty(quarter, 20)) == pytest.approx(0.9999990463, abs=5e-11)
    assert float(penalty(quarter, 2)) == 0.75
    fractions = torch.linspace(0, 1, 101).double()
    torch.testing.assert_close(rectified(inverse(fractions)), fractions, rtol=0, atol=1e-12)


def test_the_slope_of_what_is_learned_is_that_of_autograd() -> None:
    """Error and penalty in one step of plain descent, from which Adam's direction follows."""
    curve, rows = curvature(inputs(300, 12)), gaussian(1, 3, 12).double()
    curve = Curvature(curve.order, (curve.moment.double(), curve.factor.double()))
    scale = rows.abs().amax(-1, keepdim=True) / 5.9  # where a weight is clipped there is a corner
    problem = learned.Problem.of(rows, scale, torch.zeros_like(scale), formats.get("fp4_e2m1"), curve)
    v = problem.start.clone().requires_grad_()
    h = rectified(v)
    low, high = neighbours(formats.get("fp4_e2m1"), rows / scale)
    error = curve.errors((low + h * (high - low)) * scale - rows).sum(0)
    unit = (curve.diagonal[:, None] * ((high - low) * scale).square()).mean(-1)[0]
    (error / unit + learned.PENALTY * penalty(h, 7).sum(-1)[0]).sum().backward()
    assert v.grad is not None
    torch.testing.assert_close(problem.slope(v.detach(), 7), v.grad / 1.2, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["int2", "int4", "fp4_e2m1", "pot4"])
def test_learned_rounding_is_near_the_best_of_all(name: str) -> None:
    """All 1024 ways to choose between the neighbours of 10 weights."""
    fmt, columns = formats.get(name), 10
    rows, curve = gaussian(1, 20, columns), curvature(inputs(4000, columns))
    rows = curve.arranged(rows)
    scale = rows.abs().amax(-1, keepdim=True) / fmt.max
    low, high = neighbours(fmt, rows / scale)
    choices = torch.tensor(list(itertools.product([0.0, 1.0], repeat=columns)))[:, None, None]
    errors = curve.errors(((low + choices * (high - low)) * scale - rows).flatten(0, 1)[None])
    best = errors.reshape(len(choices), -1).amin(0)
    got, near, fed = (
        how(rows, scale, fmt, curve, None).error[0] for how in (learn_rows, ROUNDINGS["nearest"].rows, round_rows)
    )
    assert (got <= torch.minimum(near, fed)).all()
    assert (got.sum() - best.sum()) < 0.2 * (near.sum() - best.sum())
    assert (got < 1.0001 * best).float().mean() >= 0.3


def test_rows_are_learned_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, curve = gaussian(2, 9, 40), curvature(inputs(400, 40), 2)
    scale = rows.abs().amax(-1, keepdim=True) / 7
    together = learn_rows(rows, scale, Integers.up_to(7), curve)
    monkeypatch.setattr(learned, "_MOST_ELEMENTS", 2 * 40 * 2)
    apart = learn_rows(rows, scale, Integers.up_to(7), curve)
    assert (together.values == apart.values).float().mean() > 0.99
    torch.testing.assert_close(together.error, apart.error, rtol=0.02, atol=0)


@pytest.mark.parametrize("name", FEW)
def test_adaround_leaves_no_row_worse_than_rtn_or_gptq(name: str) -> None:
    how, weight, curve = FEW[name], gaussian(2, 6, 72), curvature(inputs(200, 72), 2)
    errors = {}
    for method in ("adaround", "rtn", "gptq"):
        ladder = METHODS[method].of(Request(how, has_data=True)).ladder(weight, curve)
        errors[method] = ladder.error[0]
    for other in ("rtn", "gptq"):
        assert (errors["adaround"] <= errors[other] * (1 + 1e-6)).all(), other
    assert errors["adaround"].sum() < 0.9 * errors["rtn"].sum()


@pytest.mark.parametrize("fmt", formats.FORMATS.values(), ids=lambda fmt: fmt.name)
def test_neighbours_enclose_a_number_and_are_next_to_each_other(fmt: Format) -> None:
    x = torch.cat([gaussian(1000) * fmt.max / 3, torch.tensor(fmt.values), torch.tensor([-1e30, 1e30])]).double()
    low, high = neighbours(fmt, x)
    table = torch.tensor(fmt.values).double()
    places = torch.searchsorted(table, low)
    assert torch.equal(table[places], low)
    assert torch.equal(table[places + 1], high)
    inside = x.clamp(fmt.min, fmt.max)
    assert ((low <= inside) & (inside <= high)).all()
    nearest = round_to(fmt, x)
    assert ((nearest == low) | (nearest == high)).all()


@pytest.mark.parametrize("samples", [4000, 3], ids=["regular", "singular"])
@pytest.mark.parametrize("name", ["int4", "uint4", "fp4_e2m1", "lloyd4x2", "lloyd2x4"])
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_the_error_is_what_the_output_is_off_by(rounding: str, name: str, samples: int) -> None:
    """Whichever way it was added up; 50 columns are no whole vectors of four."""
    fmt, how, columns = parse(name).format, ROUNDINGS[rounding], 50
    if how.singly and fmt.span > 1:
        return
    x, weight = inputs(samples, columns), gaussian(2, 6, columns)
    curve = Curvature.of((x.T @ x)[None].expand(2, -1, -1) * 1e6, 10**9, fmt.span)  # next to no damping
    rows, scale = curve.arranged(weight), weight.abs().amax(-1, keepdim=True) / fmt.max
    zero = torch.full_like(scale, 7.0) if fmt.min == 0 else None
    made = how.rows(rows, scale, fmt, curve, zero)
    torch.testing.assert_close(made.error, curve.errors(rows - made.values * scale), rtol=2e-3, atol=1e-5)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_one_row_is_left_as_it_is(rounding: str) -> None:
    """It lies in memory as its only column does; of many columns some are changed before others are rounded."""
    weight, curve = gaussian(3, 1, 150), curvature(inputs(400, 150), groups=3)
    rows = curve.arranged(weight)
    before, scale = rows.clone(), rows.abs().amax(-1, keepdim=True) / 7
    ROUNDINGS[rounding].rows(rows, scale, formats.get("int4"), curve, None)
    assert torch.equal(rows, before)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_radix_points_are_rounded_by_any(rounding: str) -> None:
    int4, x = Scheme(formats.get("int4")), inputs(4000, 48)
    made = Multipoint.of(Request(int4, has_data=True, options={"rounding": rounding}))
    weight = gaussian(1, 12, 48)
    ladder = made.ladder(weight, curvature(x))
    assert (ladder.error.sum(1).diff() < 0).all()
    for rung in range(len(ladder.rungs)):
        dense = ladder.pick(ladder.all_on(rung)).dequantize()
        off = curvature(x).errors(curvature(x).arranged(weight - dense))[0]
        torch.testing.assert_close(off, ladder.error[rung], rtol=1e-3, atol=1e-6)
    plain = Multipoint.of(Request(int4, has_data=True, options={"rounding": "nearest"})).ladder(weight, curvature(x))
    assert rounding == "nearest" or (ladder.error.sum(1) < 0.8 * plain.error.sum(1)).all()


@pytest.mark.parametrize("name", [name for name, rounding in ROUNDINGS.items() if rounding.needs])
def test_roundings_that_need_data_say_so(name: str) -> None:
    request = Request(Scheme(formats.get("int4")), options={"rounding": name})
    with pytest.raises(OptionError, match=f"--rounding {name} needs calibration data; give --data"):
        Multipoint.of(request)
    greedy = Request(request.scheme, has_data=True, options={"rounding": name, "search": "greedy"})
    with pytest.raises(OptionError, match=f"not by {name}; use --rounding nearest"):
        Multipoint.of(greedy)


@pytest.mark.parametrize("method", INFORMED)
def test_methods_that_need_data_say_so(method: str) -> None:
    with pytest.raises(
        OptionError, match=f"--method {method} needs calibration data; give --data, or use --method rtn"
    ):
        METHODS[method].of(Request(Scheme(formats.get("int4"))))


def test_what_learning_gains_is_not_only_in_its_own_measure() -> None:
    """Fresh inputs of the same kind."""
    weight, x, fresh = gaussian(1, 24, 64), inputs(2000, 64), inputs(2000, 64, seed=9)
    errors = {
        method: float(
            ((quantized(method, FEW["int4-channel"], weight, curvature(x)).dequantize() - weight[0]) @ fresh.T)
            .square()
            .sum()
        )
        for method in ("rtn", "gptq", "gpfq", "adaround")
    }
    assert errors["adaround"] < errors["gptq"] < errors["rtn"]
    assert errors["gpfq"] < errors["rtn"]
    assert math.isfinite(errors["adaround"])
