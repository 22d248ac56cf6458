"""Which of several trials is the best, and sizes as users write them."""

from __future__ import annotations

import dataclasses

import pytest

from ptq.errors import OptionError
from ptq.pipeline import Size, auto
from ptq.report import EXACTNESS, NOISE, Trial, Trials


@pytest.mark.parametrize(
    ("text", "size"), [("3MB", 3_000_000), ("750 kB", 750_000), ("0.25x", 250), ("12B", 12), ("1.5GB", 1_500_000_000)]
)
def test_sizes(text: str, size: int) -> None:
    assert Size.parse(text).bytes(1000) == size


@pytest.mark.parametrize("text", ["", "3", "MB", "3 mb", "-1MB", "0MB", "0.0x", "3MiB", "1e3B"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(OptionError, match="is no size; write for example 3MB"):
        Size.parse(text)


def trial(name: str, size: int, drop: float, sqnr: float | None, ratio: float | None, met: bool = True) -> Trial:
    return Trial(name, 4.0, size, drop, sqnr, ratio, 1.0, met)


A, B = trial("a", 1000, 0.01, 20.0, 1.0), trial("b", 1040, 0.015, 19.0, 0.4)
C, D = trial("c", 1045, 0.02, 21.0, 0.4 * NOISE), trial("d", 1100, -0.01, None, 0.3)


@pytest.mark.parametrize(
    ("among", "max_drop", "taken"),
    [
        ((A, B, C, D), 0.02, C),  # as small as the smallest, as fast as the fastest of those, more exact
        ((A, B, D), 0.02, B),
        ((A, D), 0.02, A),
        ((A, B, C, D), None, D),
        ((A, B, C), None, A),
        ((dataclasses.replace(A, drop=-0.03), D), None, D),  # a drop below 0 is luck: the outputs of d are equal
        ((A, dataclasses.replace(B, met=False)), 0.02, A),
        ((dataclasses.replace(A, met=False),), 0.02, None),
    ],
)
def test_which_is_the_best(among: tuple[Trial, ...], max_drop: float | None, taken: Trial | None) -> None:
    for order in (among, among[::-1]):
        assert auto._best(Trials(order, max_drop, None)) == taken


def test_a_drop_at_the_bound_is_within_it() -> None:
    judged = auto._judged(trial("a", 1, 0.95 - 0.94, 1.0, 1.0, False), Trials((), 0.01, None))
    assert judged.met
    assert not auto._judged(trial("a", 1, 0.01 + 10 * EXACTNESS, 1.0, 1.0, False), Trials((), 0.01, None)).met
