"""The page of one quantized model, in a real browser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from browser import SCREENSHOTS, WIDTHS, chromium, opened
from command import Command
from small_folder import Folder
from test_report import GOOD, LAYER

from ptq.report import ActivationReport, Distribution, Report, Trial, Trials
from ptq.report.html import to_html
from ptq.report.model import LayerReport, SourceReport

if TYPE_CHECKING:
    from playwright.sync_api import Browser

HOSTILE = "<script>document.title='taken'</script>"


def layer(number: int) -> LayerReport:
    mixes = {"int4": 8 - number % 3, "int4+int2": number % 3}
    return replace(
        LAYER,
        site=f"block.{number}" if number else HOSTILE,
        mixes=mixes,
        points=tuple(mixes.values()),
        bits_per_weight=4.0 + number % 3,
        output_sqnr_db=None if number == 5 else 30.0 - number,
        integer=number != 7,
        kernel="QLinearConv" if number != 7 else "Conv",
        numbers=Distribution(-7.5, 7.5, tuple(range(64)), tuple(map(float, range(-7, 8)))),
        points_map=(1.0, 1.5, 2.0) if number % 3 else (),
    )


def activation(number: int) -> ActivationReport:
    """On a grid, or without one."""
    counts = tuple(range(64))
    if number % 2:
        return ActivationReport(f"x{number}", -1.0, 3.0, Distribution(-1.0, 3.0, counts))
    grid = tuple(0.01 * each for each in range(-50, 206))
    return ActivationReport(HOSTILE, -1.0, 3.0, Distribution(-1.0, 3.0, counts, grid), 0.01, 50, 0.0123)


REPORT = replace(
    GOOD,
    source=SourceReport("a & b.onnx", "ONNX", 40, 8640, "0" * 64),
    layers=tuple(layer(number) for number in range(40)),
    notes=("no --eval: <b>",),
    warnings=("slower than FP32",),
    title="multipoint int4",
    activations=tuple(map(activation, range(4))),
    versions={"ptq": "0.1.0"},
)
AUTO = replace(
    REPORT,
    warnings=(),
    layers=REPORT.layers[1:3],
    trials=Trials(
        (Trial("int8", 8.0, 900, 0.01, 20.0, 0.5, 3.0, met=True), Trial("x", note="no")), 0.02, None, "top-1", 9
    ),
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


def written(folder: Path, report: Report) -> Path:
    path = folder / "report.html"
    path.write_text(to_html(report, "ptq quantize 'a & b.onnx'"), encoding="utf-8")
    return path


@pytest.mark.parametrize("name", WIDTHS)
@pytest.mark.parametrize("dark", [False, True])
def test_nothing_goes_wrong_at_any_width(browser: Browser, tmp_path: Path, name: str, dark: bool) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    path = written(tmp_path, REPORT)
    with opened(browser, path, width=WIDTHS[name], dark=dark) as found:
        found.page.screenshot(path=SCREENSHOTS / f"report-{name}-{'dark' if dark else 'light'}.png", full_page=True)
        assert found.said == []
        assert found.asked == [path.as_uri()]
        assert found.page.title() == "a & b.onnx: multipoint int4"
        assert found.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        assert found.page.locator(".chart svg").count() == 7
        assert found.page.locator(".verdict").inner_text() == "WARNING out.onnx, with 1 warning"
        assert found.page.get_by_text("no --eval: <b>").count() == 1


def test_layers_sort_and_filter(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, written(tmp_path, REPORT)) as found:
        columns = found.page.locator("#rows1 thead button").all_inner_texts()
        place = 1 + columns.index("output dB")
        found.page.get_by_role("button", name="output dB").click()
        shown = found.column("rows1", place)
        assert shown[-1] == ""
        assert [float(each) for each in shown[:-1]] == sorted(30.0 - each for each in range(40) if each != 5)
        found.page.get_by_label("Filter").first.fill("script")
        assert found.column("rows1", 1) == [HOSTILE]
        found.page.get_by_label("Filter").first.fill("no such layer")
        assert found.column("rows1", 1) == []
        assert found.page.locator("[data-count=rows1]").inner_text() == "0 of 40 rows"


def test_histograms_are_of_what_is_picked(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, written(tmp_path, REPORT)) as found:
        layers, tensors = found.page.locator("select").all()
        assert layers.locator("option").all_inner_texts() == [each.site for each in REPORT.layers]
        layers.select_option("block.3")
        ticks = found.page.locator(".chart:has(select) >> nth=1 >> [aria-roledescription=tick]")
        assert ticks.count() == 128
        tensors.select_option("x1")
        found.page.wait_for_function("document.querySelectorAll('[aria-roledescription=tick]').length < 100")
        assert ticks.evaluate_all("all => all.map(tick => tick.getAttribute('opacity'))") == ["0"]
        assert found.column("rows2", 8) == ["1.23 %", "", "1.23 %", ""]
        assert found.said == []


def test_what_was_tried_is_shown(browser: Browser, tmp_path: Path) -> None:
    with opened(browser, written(tmp_path, AUTO)) as found:
        assert found.said == []
        assert found.page.locator("h2").all_inner_texts()[2:4] == ["Recipes that were tried", "Layers"]
        assert found.column("rows1", 1) == ["int8", "x"]


def test_the_command_writes_it(folder: Folder, ptq: Command) -> None:
    page = folder.path / "report.html"
    job = ("quantize", folder.model, "--method", "rtn", "--weights", "int8", "-o", folder.output, "--html", page)
    assert ptq(*job).code == 0
    assert "--method rtn --weights int8 -o" in page.read_text(encoding="utf-8")
    ptq(*job).fails("exists", "--overwrite")
    ptq(*job[:-1], folder.output, "--overwrite").fails("--html and the output are the same file", code=2)
    ptq(*job[:-1], folder.path / "x.html", "--dry-run", "--overwrite").fails("leave out --dry-run", code=2)
