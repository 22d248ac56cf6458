"""What a quantization costs by the number of calibration samples, in FP32 passes over them and in memory.

    python benchmarks/quantization_cost.py MODEL --data calib.npz --method rtn --weights int8

Every figure is from a process of its own, one thread: the CPU seconds of ONNX Runtime on all samples, one by one, and
those of a quantization from reading the data to the file in memory, with the peak of that process. Imports before,
audit and evaluation behind it are not counted. Samples are repeated where the data have fewer. Rounds are interleaved;
the table has medians.
"""

from __future__ import annotations

import itertools
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import numpy as np
import runs

from calibration.dataset import fit
from calibration.sources import open_data
from ptq.audit.memory import peak
from ptq.model.capture import CaptureOptions, capture
from ptq.model.graph import Model
from ptq.pipeline import Job, run
from ptq.pipeline.stages import Advance, Stages
from ptq.recipe import Recipe

COLUMNS = ("samples", "FP32 pass, CPU s", "quantization, CPU s", "of a pass", "peak MB", "CPU s by stage")
KINDS = ("plain", "quantize")


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--method", default="rtn", show_default=True)
@click.option("--weights", default="int8", show_default=True)
@click.option("--samples", default="16,64,256", show_default=True, help="Numbers of samples.")
@click.option("--rounds", default=3, show_default=True)
@click.option("--one", type=click.Choice(KINDS), help="Run one kind in this process and print its figures.")
def main(model: Path, data: Path, method: str, weights: str, samples: str, rounds: int, *, one: str | None) -> None:
    """Time the quantization of MODEL on more and more samples of the data."""
    if one is not None:
        found = _plain(model, data) if one == "plain" else _quantized(model, data, method, weights)
        click.echo(json.dumps(found))
        return
    click.echo(f"{model.name}, --method {method} --weights {weights}, {runs.headline()}\n")
    click.echo(runs.head(COLUMNS))
    counts = [int(count) for count in samples.split(",")]
    with tempfile.TemporaryDirectory() as folder:
        files = _files(model, data, counts, Path(folder))
        options = ["--method", method, "--weights", weights]
        figures: dict[tuple[int, str], list[Any]] = {key: [] for key in itertools.product(counts, KINDS)}
        for _ in range(rounds):
            for (count, kind), each in figures.items():
                each.append(_apart(model, ["--data", str(files[count]), *options, "--one", kind]))
        for count in counts:
            click.echo(runs.row(_cells(count, figures[count, "plain"], figures[count, "quantize"])))


def _cells(count: int, plain: Sequence[float], quantized: Sequence[dict[str, Any]]) -> Iterator[str]:
    once = statistics.median(plain)
    seconds = statistics.median(each["seconds"] for each in quantized)
    yield str(count)
    yield from (f"{once:.2f}", f"{seconds:.2f}", f"{seconds / once:.2f}x")
    yield f"{statistics.median(each['peak_bytes'] for each in quantized) / 1e6:.0f}"
    names = quantized[0]["stages"]
    yield ", ".join(f"{name} {statistics.median(each['stages'][name] for each in quantized):.2f}" for name in names)


def _apart(model: Path, options: Sequence[str]) -> Any:
    """What a process of its own prints."""
    command = [sys.executable, __file__, str(model), *options]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise click.ClickException(f"{' '.join(options)}: {said[-1] if said else f'exit code {done.returncode}'}")
    return json.loads(done.stdout)


def _files(path: Path, data: Path, counts: Sequence[int], folder: Path) -> dict[int, Path]:
    """Files of so many samples each, repeated where there are too few."""
    source = open_data(data)
    model = Model(capture(path, CaptureOptions(), source.example()))
    batches = [batch.feeds for batch in fit(source, model.inputs).take(max(counts)).batches(1)]
    whole = {name: np.concatenate([feeds[name] for feeds in batches]) for name in batches[0]}
    files = {count: folder / f"{count}.npz" for count in counts}
    for count, file in files.items():
        np.savez(file, **{name: array[np.arange(count) % len(array)] for name, array in whole.items()})
    return files


def _plain(path: Path, data: Path) -> float:
    """CPU seconds of one pass of the float model; loading, reading and a first run are not counted."""
    source = open_data(data)
    model = Model(capture(path, CaptureOptions(), source.example()))
    session, dataset = model.session(), fit(source, model.inputs)
    session.run(next(dataset.batches(1)).feeds)
    seconds = 0.0
    for batch in dataset.batches(1):
        start = time.process_time()
        session.run(batch.feeds)
        seconds += time.process_time() - start
    return seconds


class _MadeError(Exception):
    """The quantization is over, the audit would begin."""


class _Costs(Stages):
    """CPU seconds by stage; ends the run where the audit begins."""

    def __init__(self) -> None:
        super().__init__()
        self.cpu: dict[str, float] = {}

    @contextmanager
    def shown(self, name: str, total: int | None) -> Iterator[Advance]:  # noqa: ARG002
        """Time a stage."""
        if name == "audit":
            raise _MadeError
        start = time.process_time()
        yield lambda: None
        self.cpu[name] = self.cpu.get(name, 0.0) + time.process_time() - start


def _quantized(path: Path, data: Path, method: str, weights: str) -> dict[str, Any]:
    """CPU seconds of a quantization, from reading the data on, by stage too, and the peak memory of this process."""
    import torch

    torch.set_num_threads(1)
    costs, recipe = _Costs(), Recipe.of({"method": method, "weights": weights})
    start = time.process_time()
    try:
        run(Job(path, str(data)), recipe, costs)
    except _MadeError:
        return {"seconds": time.process_time() - start, "peak_bytes": peak(), "stages": costs.cpu}
    raise click.ClickException("the run had no audit, so that its end was not seen")


if __name__ == "__main__":
    main()
