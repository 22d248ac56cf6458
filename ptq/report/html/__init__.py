"""Reports as one HTML file each, which opens offline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

from ptq.report.comparison import Comparison
from ptq.report.diagnosis import Diagnosis
from ptq.report.html.comparison import comparison_page, sweep_page
from ptq.report.html.diagnosis import diagnosis_page
from ptq.report.html.inspection import inspection_page
from ptq.report.html.page import Page, render
from ptq.report.html.report import report_page
from ptq.report.inspection import Inspection
from ptq.report.model import Report
from ptq.report.sweep import Sweep

__all__ = ["to_html"]

_PAGES: Final[Mapping[type, Callable[[Any], Page]]] = MappingProxyType(
    {
        Report: report_page,
        Comparison: comparison_page,
        Sweep: sweep_page,
        Inspection: inspection_page,
        Diagnosis: diagnosis_page,
    }
)


def to_html(found: Report | Comparison | Sweep | Inspection | Diagnosis, command: str | None = None) -> str:
    """The page of what was found; `command` is the command line that makes it again."""
    return render(_PAGES[type(found)](found), command)
