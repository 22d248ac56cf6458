"""The page of one quantized model."""

from __future__ import annotations

import json

from ptq.report.html.distributions import (
    activation_histograms,
    activation_table,
    points_map,
    ranges,
    weight_histograms,
)
from ptq.report.html.layers import layer_charts, layer_table
from ptq.report.html.page import Cell, Page, Remark, Table
from ptq.report.model import Report
from ptq.report.terminal import outcome, rows
from ptq.report.trials import Trials, cells


def report_page(report: Report) -> Page:
    """What a report shows."""
    source = report.source
    status, text = outcome(report)
    said = {name: value for name, value in report.options.items() if value not in (None, [], False)}
    hashed = f", SHA-256 {report.data_sha256}" if report.data_sha256 else ""
    origin = [
        ("float model", f"{source.path or 'in memory'}: {source.kind}, SHA-256 {source.sha256 or 'not known'}"),
        (
            "calibration data",
            f"{report.data or 'none'}{hashed}",
        ),
        ("evaluation data", report.evaluation or "none"),
        ("options", json.dumps(said, sort_keys=True)),
        ("stages", ", ".join(f"{name} {seconds:.1f} s" for name, seconds in report.stages.items())),
    ]
    shown = report.activations
    drawn = [points_map(report.layers), weight_histograms(report.layers), activation_histograms(shown), ranges(shown)]
    tables = [layer_table(report), activation_table(shown), _kernels(report)]
    if report.trials is not None:
        tables.insert(0, _trials(report.trials))
    told = None if report.portability is None else report.portability.told
    more = [] if told is None or told in report.warnings else [Remark(told)]
    return Page(
        title=f"{source.path or 'a model'}: {report.title}",
        heading=f"{source.path or 'A model'}, {report.title}",
        status=status,
        outcome=text,
        remarks=[*(Remark(each, "WARNING") for each in report.warnings), *map(Remark, report.notes), *more],
        summary=[("", "FP32", report.title), *rows(report)],
        charts=[*layer_charts(report), *(chart for chart in drawn if chart is not None)],
        tables=[table for table in tables if table is not None],
        origin=origin,
        versions=report.versions,
    )


def _kernels(report: Report) -> Table:
    found = [[Cell(kernel), Cell(f"{count:,}", count)] for kernel, count in report.kernels.items()]
    return Table("Kernels that ran", ("kernel", "layers"), found, frozenset({"layers"}))


def _trials(trials: Trials) -> Table:
    names = ("bits", "bytes", "drop", "SQNR", "latency", "seconds")
    found = []
    for trial in trials.tried:
        keys = (
            None,
            trial.bits_per_weight,
            trial.bytes,
            trial.drop,
            trial.sqnr_db,
            trial.latency_ratio,
            trial.seconds,
            None,
        )
        found.append([Cell(text, key) for text, key in zip(cells(trial, trials), keys, strict=True)])
    return Table("Recipes that were tried", ("recipe", *names, "outcome"), found, frozenset(names))
