"""The page of a comparison, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from browser import SCREENSHOTS, WIDTHS, chromium, opened
from hypothesis import given
from hypothesis import strategies as st

from ptq.audit import Timing
from ptq.evaluate import Accuracy, Score
from ptq.report import ComparedFile, Comparison
from ptq.report.html import to_html
from ptq.report.pareto import front, knee

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HOSTILE = "<img src=x onerror=document.title='taken'>.onnx"
REFERENCE = ComparedFile(
    "net.onnx", "a" * 64, 4_000_000, 32.0, 0.01, 9_000_000, {"Conv": 12}, timings=(Timing(1, 1, 9.0, 9.5, 1.0),)
)


def file(name: str, number: int) -> ComparedFile:
    top1 = 0.9 - 0.3 * 0.8**number
    scores = (Score("top-1", 0.9, top1),)
    return ComparedFile(
        name,
        "b" * 64,
        500_000 + 100_000 * number,
        4.0 + number / 4,
        0.02,
        3_000_000,
        {"QLinearConv": 12},
        integer=12,
        timings=(Timing(1, 1, 3.0 + 0.1 * number, 4.0, 0.33),),
        accuracy=Accuracy(100, 100, 0.9, 10.0 + number, 0.99, 0, 100, 0.01, scores),
        warnings=(f"top-1 drops by {100 * (0.9 - top1):.1f} points",) if number < 6 else (),
    )


COMPARISON = Comparison(
    REFERENCE,
    (
        *(file(f"net.{number}.onnx", number) for number in range(11)),
        file(HOSTILE, 11),
        ComparedFile("x", failure="no & <b></script>"),
    ),
    "100 samples",
    0.02,
    {"ptq": "0.1.0", "onnxruntime": "1.32.0"},
    "a machine",
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("page") / "compared.html"
    made.write_text(to_html(COMPARISON, f"ptq compare net.onnx '{HOSTILE}'"), encoding="utf-8")
    return made


def test_it_is_one_small_file(path: Path) -> None:
    assert path.stat().st_size < 2_000_000
    text = path.read_text(encoding="utf-8")
    assert "<img src=x" not in text
    assert "no &amp; &lt;b&gt;&lt;/script&gt;" in text


@pytest.mark.parametrize("name", WIDTHS)
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_goes_wrong_at_any_width(browser: Browser, path: Path, name: str, dark: bool) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    with opened(browser, path, width=WIDTHS[name], dark=dark) as found:
        found.page.screenshot(path=SCREENSHOTS / f"compare-{name}-{'dark' if dark else 'light'}.png", full_page=True)
        assert found.said == []
        assert found.asked == [path.as_uri()]
        assert found.page.title() == "net.onnx compared"
        assert found.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert found.page.locator(".chart svg").count() == 3
        texts = found.page.locator(".chart text")
        assert "top-1 in %" in texts.all_text_contents()
        ink = texts.first.evaluate("each => getComputedStyle(each).fill")
        assert ink == ("rgb(230, 233, 237)" if dark else "rgb(28, 33, 39)")


def test_the_table_sorts(browser: Browser, path: Path) -> None:
    with opened(browser, path) as found:
        sizes = [f"{each.bytes / 1e6:.2f}" for each in (REFERENCE, *COMPARISON.files[:-1])]
        columns = found.page.locator("#rows1 thead button").all_inner_texts()
        place = 1 + columns.index("MB")
        assert found.column("rows1", place) == sizes
        head = found.page.locator(f"#rows1 thead th:nth-child({place})")
        for order, expected in (
            ("ascending", sorted(sizes, key=float)),
            ("descending", sorted(sizes, key=float)[::-1]),
        ):
            head.locator("button").press("Enter")
            assert head.get_attribute("aria-sort") == order
            assert found.column("rows1", place) == expected
        found.page.locator("#rows1 thead button", has_text="SQNR").click()
        assert found.column("rows1", 1 + columns.index("SQNR dB"))[-1] == ""
        assert head.get_attribute("aria-sort") is None


def test_the_table_filters(browser: Browser, path: Path) -> None:
    with opened(browser, path) as found:
        found.page.get_by_label("Filter").first.fill("NET.1")
        assert found.column("rows1", 1) == ["net.1.onnx", "net.10.onnx"]
        assert found.page.locator("[data-count=rows1]").inner_text() == "2 of 13 rows"
        found.page.get_by_label("Filter").first.fill("<IMG")
        assert found.column("rows1", 1) == [HOSTILE]


def test_what_is_not_seen_is_told(browser: Browser, path: Path) -> None:
    with opened(browser, path) as found:
        told = [each.get_attribute("aria-label") for each in found.page.locator(".chart").all()]
        assert [each is not None and "net.10.onnx: " in each for each in told] == [True, True, True]
        assert found.page.get_by_role("columnheader", name="verdict").count() == 1
        assert found.page.get_by_role("rowheader", name="FP32").count() >= 1


def test_without_labels_and_without_anything_that_ran(browser: Browser, tmp_path: Path) -> None:
    accuracy = Accuracy(100, 0, None, 20.0, 0.99, 0)
    unlabelled = replace(COMPARISON, files=(replace(COMPARISON.files[0], accuracy=accuracy, timings=()),))
    failed = replace(COMPARISON, files=COMPARISON.files[-1:])
    for name, comparison, charts in (("unlabelled", unlabelled, 1), ("failed", failed, 0)):
        page = tmp_path / f"{name}.html"
        page.write_text(to_html(comparison), encoding="utf-8")
        with opened(browser, page) as found:
            assert found.said == []
            assert found.page.locator(".chart svg").count() == charts


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), min_size=1, max_size=12))
def test_the_front_is_what_nothing_beats(points: list[tuple[int, int]]) -> None:
    found = front(points)

    def beaten(one: tuple[int, int]) -> bool:
        return any(a <= one[0] and b >= one[1] and (a, b) != one for a, b in points)

    assert {points[index] for index in found} == {point for point in points if not beaten(point)}
    assert len({points[index] for index in found}) == len(found)
    assert [points[index][0] for index in found] == sorted(points[index][0] for index in found)
    bend = knee(points)
    assert bend is None or bend in found[1:-1]


def test_the_knee_is_where_a_curve_bends() -> None:
    costs = np.linspace(1, 9, 9)
    gains = np.minimum(costs, 4) + 0.01 * costs
    assert knee(list(zip(costs.tolist(), gains.tolist(), strict=True))) == 3
    assert knee([(0, 0), (1, 1), (2, 2)]) is None
    assert knee([(0, 0), (1, 0.1), (2, 2)]) is None
    assert knee([(0, 0), (1, 1)]) is None
