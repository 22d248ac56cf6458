"""The report: data, JSON, terminal, verdict."""

from __future__ import annotations

from ptq.report.comparing import render_comparison, short_names
from ptq.report.comparison import ComparedFile, Comparison
from ptq.report.diagnosis import AS_IT_IS, Blame, Diagnosis, render_diagnosis
from ptq.report.distribution import ActivationReport, Distribution
from ptq.report.inspection import (
    FormatSize,
    InspectedLayer,
    Inspection,
    OtherWeights,
    PredictedRun,
    render_inspection,
)
from ptq.report.model import FileReport, LayerReport, Report, SourceReport
from ptq.report.outline import Outline, OutlinedLayer, render_outline
from ptq.report.portability import Portability
from ptq.report.prediction import Prediction
from ptq.report.sweep import Sweep, SweptPoint, render_sweep
from ptq.report.terminal import render
from ptq.report.text import from_json, to_json
from ptq.report.trials import Trial, Trials, render_trials
from ptq.report.verdict import EXACTNESS, NOISE, comparison_warnings, drops, warnings_of

__all__ = [
    "AS_IT_IS",
    "EXACTNESS",
    "NOISE",
    "ActivationReport",
    "Blame",
    "ComparedFile",
    "Comparison",
    "Diagnosis",
    "Distribution",
    "FileReport",
    "FormatSize",
    "InspectedLayer",
    "Inspection",
    "LayerReport",
    "OtherWeights",
    "Outline",
    "OutlinedLayer",
    "Portability",
    "PredictedRun",
    "Prediction",
    "Report",
    "SourceReport",
    "Sweep",
    "SweptPoint",
    "Trial",
    "Trials",
    "comparison_warnings",
    "drops",
    "from_json",
    "render",
    "render_comparison",
    "render_diagnosis",
    "render_inspection",
    "render_outline",
    "render_sweep",
    "render_trials",
    "short_names",
    "to_json",
    "warnings_of",
]
