"""What calibration costs on top of running the network on the same data.

    python benchmarks/calibration_cost.py MODEL.onnx --data calib.npz

Every line is a process of its own, one thread: a plain run of all batches, ranges alone, ranges with histograms, and
those with the second moments that the weights are rounded for. Rounds are interleaved; the table has medians.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import click
import runs

KINDS = {
    "plain run": (None, False),
    "ranges": ("minmax", False),
    "ranges and histograms": ("percentile", False),
    "ranges, histograms and moments": ("percentile", True),
}
"""By name: the range rule, and whether second moments are gathered."""


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--rounds", default=3, show_default=True)
@click.option("--one", type=click.Choice(list(KINDS)), help="Run one kind in this process and print its figures.")
def main(model: Path, data: Path, rounds: int, one: str | None) -> None:
    """Time calibration of MODEL on the data."""
    if one is not None:
        click.echo(json.dumps(_measured(model, data, one)))
        return
    command = [sys.executable, __file__, str(model), "--data", str(data), "--one"]
    found: dict[str, list[tuple[float, float]]] = {kind: [] for kind in KINDS}
    for _ in range(rounds):
        for kind, figures in found.items():
            figures.append(json.loads(subprocess.run([*command, kind], check=True, capture_output=True).stdout))
    medians = {
        kind: [statistics.median(each) for each in zip(*figures, strict=True)] for kind, figures in found.items()
    }
    plain = medians["plain run"]
    click.echo(f"{model.name}, {runs.headline()}\n")
    click.echo(runs.head(("what", "seconds", "of a plain run", "MB above it")))
    for kind, (seconds, peak) in medians.items():
        cells = (kind, f"{seconds:.2f}", f"{seconds / plain[0]:.2f}x", f"{(peak - plain[1]) / 1e6:.0f}")
        click.echo(runs.row(cells))


def _measured(path: Path, data: Path, kind: str) -> tuple[float, int]:
    """Seconds and peak memory of this process."""
    import torch

    from calibration.dataset import fit
    from calibration.sources import open_data
    from ptq.lowering import Execution, execution, find_activations
    from ptq.model.capture import CaptureOptions, capture
    from ptq.model.graph import Model
    from ptq.pipeline.calibrate import BATCH, calibrate
    from ptq.recipe import Recipe

    torch.set_num_threads(1)
    model = Model.of(capture(path, CaptureOptions(), None))
    dataset = fit(open_data(data), model.inputs)
    rule, moments = KINDS[kind]
    plan = Recipe().plan(model.sites, has_data=True)
    ways = [
        (site, execution(model, site, method, plan.activations))
        for site in model.sites
        if (method := plan.methods[site.name]) is not None
    ]
    static = {use.node for site, way in ways if way is Execution.STATIC for use in site.uses}
    observed = find_activations(model.graph.graph, static).observed
    start = time.perf_counter()
    if rule is None:
        session = model.session()
        for batch in dataset.batches(BATCH):
            session.run(batch.feeds)
    else:
        calibrate(model, [site for site, _ in ways] if moments else [], observed, rule, dataset.batches(BATCH))
    return time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


if __name__ == "__main__":
    main()
