"""The report: data, JSON, terminal, verdict."""

from __future__ import annotations

from ptq.report.model import AccuracyReport, FileReport, LayerReport, Report, SourceReport
from ptq.report.outline import Outline, OutlinedLayer, render_outline
from ptq.report.terminal import render
from ptq.report.text import from_json, to_json
from ptq.report.verdict import warnings_of

__all__ = [
    "AccuracyReport",
    "FileReport",
    "LayerReport",
    "Outline",
    "OutlinedLayer",
    "Report",
    "SourceReport",
    "from_json",
    "render",
    "render_outline",
    "to_json",
    "warnings_of",
]
