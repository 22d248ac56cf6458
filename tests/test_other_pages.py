"""The pages of `inspect` and `diagnose`, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser import SCREENSHOTS, WIDTHS, chromium, opened
from command import Command
from small_folder import Folder
from test_comparison_page import COMPARISON

from ptq.evaluate import Accuracy, Score
from ptq.report import (
    Blame,
    Diagnosis,
    FormatSize,
    InspectedLayer,
    Inspection,
    OtherWeights,
    PredictedRun,
    Prediction,
    SourceReport,
    Sweep,
    SweptPoint,
)
from ptq.report.html import to_html

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HOSTILE = "<script>document.title='taken'</script>"
VERSIONS = {"ptq": "0.1.0"}

INSPECTION = Inspection(
    SourceReport("a & b.onnx", "ONNX", 3, 300, "0" * 64),
    ("x:float32[n,3]",),
    ("y[?,5]",),
    4000,
    (
        InspectedLayer(HOSTILE, "Conv", (8, 3, 3, 3), 216, "static", None),
        InspectedLayer("two", "LSTM", (84,), 84, "float", "no int8 kernel has <b>LSTM</b>"),
    ),
    (OtherWeights("table", 99, "Add"),),
    (FormatSize("--weights int8", 8.1, 1000), FormatSize("--weights nvfp4", note="no")),
    5000,
    VERSIONS,
    (PredictedRun("--method rtn", Prediction({"quantize": 3.2}, 10**9)),),
    64,
)


def accuracy(decibels: float | None) -> Accuracy:
    return Accuracy(100, 100, 0.9, decibels, 0.99, 0, 100, 0.01, (Score("top-1", 0.9, 0.88),))


def blame(number: int) -> Blame:
    name = f"block.{number}" if number else HOSTILE
    alone = accuracy(None if number == 69 else 10.0 + number)
    return Blame(name, "Conv", "int4", 4000, 500 + number, alone, accuracy(9.5 + 0.01 * number), 0.02, 0.01)


DIAGNOSIS = Diagnosis(
    "rtn int4",
    accuracy(9.0),
    tuple(blame(number) for number in range(70)),
    Sweep(
        COMPARISON,
        (
            *(SweptPoint(f"point-{each.path}", each.path, "ptq quantize net.onnx") for each in COMPARISON.files),
            SweptPoint("x", refused="no"),
        ),
    ),
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("name", "found", "charts"), [("inspected", INSPECTION, 2), ("diagnosed", DIAGNOSIS, 5)])
def test_nothing_goes_wrong_at_any_width(
    browser: Browser, tmp_path: Path, name: str, found: Inspection | Diagnosis, charts: int, width: str
) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    path = tmp_path / "page.html"
    path.write_text(to_html(found, "ptq something 'a & b.onnx'"), encoding="utf-8")
    with opened(browser, path, width=WIDTHS[width], dark=width == "phone") as seen:
        seen.page.screenshot(path=SCREENSHOTS / f"{name}-{width}.png", full_page=True)
        assert seen.said == []
        assert seen.asked == [path.as_uri()]
        assert "taken" not in seen.page.title()
        assert seen.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert seen.page.locator(".chart svg").count() == charts
        assert seen.page.get_by_role("rowheader", name=HOSTILE).count() == 1


def test_what_the_pages_say(browser: Browser, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    path.write_text(to_html(INSPECTION), encoding="utf-8")
    with opened(browser, path) as seen:
        assert seen.column("rows1", 3) == ["0.00", ""]
        assert seen.column("rows2", 2) == ["3"]
        assert seen.column("rows3", 7) == ["", "no int8 kernel has <b>LSTM</b>"]
        remarks = seen.page.locator(".remarks li").all_inner_texts()
        assert remarks == [
            "float two: no int8 kernel has <b>LSTM</b>",
            "float table: 99 weights: Add is no kind of layer that is quantized",
        ]
    path.write_text(to_html(replace(DIAGNOSIS, layers=DIAGNOSIS.layers[::-1])), encoding="utf-8")
    with opened(browser, path) as seen:
        seen.page.get_by_role("button", name="alone dB").click()
        assert [float(each) for each in seen.column("rows1", 4)[:3]] == [10.0, 11.0, 12.0]
        assert seen.column("rows1", 4)[-1] == ""
        assert seen.column("rows1", 7)[:2] == ["+0.50", "+0.51"]
        assert (
            "as it is 9.0 dB, and block.69, block.68, block.67 cost most" in seen.page.locator(".verdict").inner_text()
        )


def test_the_commands_write_them(folder: Folder, ptq: Command) -> None:
    for name in ("one.html", "one.json"):
        said = ("inspect", folder.model, f"--{name[4:]}", folder.path / name)
        assert ptq(*said).code == 0
        ptq(*said).fails("exists", "--overwrite")
    assert "ptq inspect" in (folder.path / "one.html").read_text(encoding="utf-8")
    page = folder.path / "two.html"
    run = ptq("diagnose", folder.model, "--data", folder.data, "--eval", folder.data, "--method", "rtn", "--html", page)
    assert run.code == 0, run.err
    assert "ptq diagnose" in page.read_text(encoding="utf-8")
