"""Reports as one HTML file each, which opens offline."""

from __future__ import annotations

from ptq.report.html.comparison import comparison_page, sweep_page

__all__ = ["comparison_page", "sweep_page"]
