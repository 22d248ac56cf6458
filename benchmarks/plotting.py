"""Matplotlib, which only the figures of the benchmarks need."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import click


def pyplot() -> Any:
    """The module, drawing to files.

    Raises:
        ClickException: it is not installed.

    """
    try:
        matplotlib = importlib.import_module("matplotlib")
    except ModuleNotFoundError:
        raise click.ClickException("matplotlib is not installed; run: pip install -e '.[benchmarks]'") from None
    matplotlib.use("agg")  # needs no screen
    matplotlib.rcParams["svg.hashsalt"] = "ptq"  # the same figure is the same file
    matplotlib.rcParams["svg.fonttype"] = "none"  # text stays text
    return importlib.import_module("matplotlib.pyplot")


def save(figure: Any, stem: Path) -> None:
    """As `stem.png` and `stem.svg`."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    for kind, more in (("png", {"dpi": 110}), ("svg", {"metadata": {"Date": None}})):
        figure.savefig(stem.with_name(f"{stem.name}.{kind}"), **more)
    pyplot().close(figure)
