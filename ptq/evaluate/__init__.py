"""Accuracy: what a file answers, beside the float model and beside the truth."""

from __future__ import annotations

from ptq.evaluate.accuracy import Accuracy, Score, Sense
from ptq.evaluate.evaluation import check_labels, evaluate, evaluate_all
from ptq.evaluate.metrics import METRICS, check_metrics

__all__ = ["METRICS", "Accuracy", "Score", "Sense", "check_labels", "check_metrics", "evaluate", "evaluate_all"]
