"""A report as JSON, and back."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

from ptq.errors import DataError
from ptq.evaluate import Accuracy, Score
from ptq.report.comparison import Comparison
from ptq.report.diagnosis import Diagnosis
from ptq.report.distribution import ActivationReport, Distribution
from ptq.report.inspection import Inspection
from ptq.report.model import SCHEMA, FileReport, LayerReport, Report, SourceReport
from ptq.report.outline import Outline
from ptq.report.portability import Portability
from ptq.report.sweep import Sweep
from ptq.report.trials import Trial, Trials


def to_json(report: Report | Outline | Trials | Comparison | Sweep | Inspection | Diagnosis) -> str:
    """Strict JSON: numbers that are not finite become null."""
    content = _finite(dataclasses.asdict(report))
    if isinstance(report, Report):
        content["verdict"] = report.verdict
    if isinstance(report, Sweep):
        _add_verdicts(report.comparison, content["comparison"])
        for name in ("knee_by_size", "knee_by_latency"):
            point = getattr(report, name)
            content[name] = None if point is None else point.name
    if isinstance(report, Diagnosis):
        content["remedies"] = [dataclasses.asdict(remedy) for remedy in report.remedies]
    if isinstance(report, Comparison):
        _add_verdicts(report, content)
        for name in ("knee_by_size", "knee_by_latency"):
            file = getattr(report, name)
            content[name] = None if file is None else file.path
    return json.dumps(content, indent=2, sort_keys=True, allow_nan=False) + "\n"


def from_json(text: str) -> Report:
    """The report that was written.

    Raises:
        DataError: it is no report of this version.

    """
    try:
        content = json.loads(text)
        schema = content["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError("this is no report of ptq; give a file that --json wrote") from error
    if schema != SCHEMA:
        raise DataError(f"the report has schema {schema}, this version reads {SCHEMA}; write it again")
    del content["verdict"]
    layers = tuple(map(_layer, content["layers"]))
    activations = tuple(
        ActivationReport(**{**each, "numbers": _distribution(each["numbers"])}) for each in content["activations"]
    )
    accuracy = content["accuracy"]
    return Report(
        **{
            **content,
            "source": SourceReport(**content["source"]),
            "layers": layers,
            "activations": activations,
            "accuracy": None if accuracy is None else _accuracy(accuracy),
            "file": FileReport(**content["file"]),
            "portability": _portability(content["portability"]),
            "trials": _trials(content.get("trials")),
            "notes": tuple(content["notes"]),
            "warnings": tuple(content["warnings"]),
        }
    )


def _layer(content: dict[str, Any]) -> LayerReport:
    tuples = {name: tuple(content[name]) for name in ("shape", "points", "points_map")}
    return LayerReport(**{**content, **tuples, "numbers": _distribution(content["numbers"])})


def _distribution(content: dict[str, Any] | None) -> Distribution | None:
    if content is None:
        return None
    return Distribution(**{**content, "counts": tuple(content["counts"]), "grid": tuple(content["grid"])})


def _add_verdicts(found: Comparison, content: dict[str, Any]) -> None:
    for file, said in zip(found.files, content["files"], strict=True):
        said["verdict"] = file.verdict


def _accuracy(content: dict[str, Any]) -> Accuracy:
    return Accuracy(**{**content, "scores": tuple(Score(**score) for score in content["scores"])})


def _portability(content: dict[str, Any] | None) -> Portability | None:
    return None if content is None else Portability(**content)


def _trials(content: dict[str, Any] | None) -> Trials | None:
    if content is None:
        return None
    return Trials(**{**content, "tried": tuple(Trial(**trial) for trial in content["tried"])})


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
