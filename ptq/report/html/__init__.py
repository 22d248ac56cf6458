"""Reports as one HTML file each, which opens offline."""

from __future__ import annotations

from ptq.report.html.comparison import comparison_page, sweep_page
from ptq.report.html.report import report_page

__all__ = ["comparison_page", "report_page", "sweep_page"]
