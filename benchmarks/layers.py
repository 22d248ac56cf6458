"""Time every quantized layer inside its network, against the same layer of the float network.

    python benchmarks/layers.py MODEL QUANTIZED.onnx --data eval.npz --length 1

What is timed is the kernel of the layer, by ONNX Runtime's profiler; what it shares with others, such as finding the
range of an input at every call, is not in it. The two networks take turns, on one sample and one thread; the table has
medians, the slowest layers in relation to FP32 first. `--length` cuts the second axis of the inputs: with tokens, 1
is what a decoder computes for each one that it writes.
"""

from __future__ import annotations

import statistics
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import runs

from calibration.dataset import fit
from calibration.sources import open_data
from ptq.audit.audit import kernels_of
from ptq.audit.kernels import Kernel
from ptq.audit.profile import NodeRuns, node_runs
from ptq.lowering.marks import site_key
from ptq.model.capture import CaptureOptions, capture
from ptq.model.graph import Model
from ptq.model.save import serialized
from ptq.model.session import Session

COLUMNS = ("layer", "kernel", "FP32 us", "us", "of FP32's")
WARM, RUNS = 3, 3
"""Turns that are not counted, and runs in a turn."""

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@dataclass(frozen=True)
class Times:
    """Microseconds of a layer in both networks, medians, and the median of the ratios of the runs."""

    name: str
    kernel: Kernel
    reference: float
    quantized: float
    ratio: float


@click.command()
@click.argument("model", type=_FILE)
@click.argument("quantized", type=_FILE)
@click.option("--data", required=True, type=_FILE)
@click.option("--length", type=click.IntRange(min=1), help="Of the second axis of the inputs.")
@click.option("--rounds", default=30, show_default=True)
@click.option("--show", default=10, show_default=True, help="How many layers to print.")
def main(model: Path, quantized: Path, data: Path, length: int | None, rounds: int, show: int) -> None:
    """Time the layers of QUANTIZED, a file of `ptq quantize`, against those of MODEL."""
    with tempfile.TemporaryDirectory(prefix="ptq-") as folder:
        times = _measured(model, quantized, data, length, rounds, Path(folder))
    if not times:
        raise click.ClickException(f"{quantized} has no layer with marks of ptq; give a file that `ptq quantize` wrote")
    click.echo(f"{quantized.name}, {runs.headline()}\n\n{runs.head(COLUMNS)}")
    for each in sorted(times, key=lambda each: -each.ratio)[:show]:
        cells = (f"{each.reference:.1f}", f"{each.quantized:.1f}", f"{each.ratio:.2f}x")
        click.echo(runs.row((each.name, each.kernel.op, *cells)))
    ratios = [each.ratio for each in times]
    slower = sum(ratio > 1 for ratio in ratios)
    ops = ", ".join(f"{count} {op}" for op, count in Counter(each.kernel.op for each in times).most_common())
    together = sum(each.quantized for each in times) / sum(each.reference for each in times)
    click.echo(
        f"\n{len(times)} layers ({ops}): {slower} slower than FP32, median {statistics.median(ratios):.2f}x, "
        f"slowest {max(ratios):.2f}x, together {together:.2f}x"
    )


def _measured(model: Path, quantized: Path, data: Path, length: int | None, rounds: int, folder: Path) -> list[Times]:
    source = open_data(data)
    prepared = Model.of(capture(model, CaptureOptions(), source.example()))
    feeds = _cut(next(fit(source, prepared.inputs).batches(1)).feeds, length)
    paths = (_marked(prepared, folder / "float.onnx"), quantized)
    kernels = [kernels_of(path) for path in paths]
    sessions = [Session(path, profile=folder / f"{number}") for number, path in enumerate(paths)]
    for _ in range(WARM + rounds):
        for session in sessions:
            for _ in range(RUNS):
                session.run(feeds)
    nodes = [node_runs(session.end_profiling()) for session in sessions]
    return [
        Times(name, kernel, *_compared(*(_sums(of, found[name]) for of, found in zip(nodes, kernels, strict=True))))
        for name, kernel in kernels[1].items()
        if name in kernels[0]
    ]


def _marked(model: Model, path: Path) -> Path:
    """A float file with the marks by which kernels are found."""
    for site in model.sites:
        for use in site.uses:
            model.graph.graph.node(use.node).metadata_props[site_key(use.slot)] = site.name
    path.write_bytes(serialized(model))
    return path


def _cut(feeds: Mapping[str, np.ndarray], length: int | None) -> dict[str, np.ndarray]:
    return {name: array[:, :length] if array.ndim > 1 else array for name, array in feeds.items()}


def _sums(nodes: Mapping[str, NodeRuns], kernel: Kernel) -> np.ndarray:
    """What all uses of a layer took, turn by turn; the first run of each finds the caches full of the other network."""
    turns = np.sum([nodes[name].durations for name in kernel.nodes], axis=0).reshape(-1, RUNS)
    return turns[WARM:, 1:].mean(axis=1)


def _compared(reference: np.ndarray, quantized: np.ndarray) -> tuple[float, float, float]:
    ratio = np.median(quantized / np.maximum(reference, 1e-9))
    return float(np.median(reference)), float(np.median(quantized)), float(ratio)


if __name__ == "__main__":
    main()
