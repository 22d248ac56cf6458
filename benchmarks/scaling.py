"""How the time of a run falls with the number of processes that share it.

    python benchmarks/scaling.py MODEL.onnx CALIB.npz --method gptq --processes 1 --processes 2 --processes 4

Strong scaling: the same samples, whoever has them. Weak scaling: as many samples for each process. A process has one
thread, and a core of its own as long as there are that many; all are on this machine and start with an empty cache. The
seconds are those of the stages that are shared, as the first process reports them, which waits for the others.
"""

from __future__ import annotations

import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import click
import numpy as np
import runs

_SHARED = ("smooth", "calibrate", "quantize", "allocate")
COLUMNS = ("scaling", "processes", "samples", *_SHARED, "all", "one against it", "file")


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("--method", default="gptq", show_default=True)
@click.option("--weights", default="int4", show_default=True)
@click.option("--processes", "sizes", type=int, multiple=True, default=[1, 2, 4], show_default=True)
@click.option("--samples", default=64, show_default=True, help="Of strong scaling; in weak scaling all processes' own.")
@click.option("--rounds", default=3, show_default=True)
def main(model: Path, data: Path, *, sizes: Sequence[int], samples: int, rounds: int, **recipe: str) -> None:
    """Quantize MODEL with DATA, an .npz, by several numbers of processes."""
    arrays = dict(np.load(data))
    options = [word for name, value in recipe.items() for word in (f"--{name}", value)]
    click.echo(f"{model.name}, {' '.join(options)}, {os.cpu_count()} cores, {runs.headline()}\n")
    click.echo(runs.head(COLUMNS))
    for weak in (False, True):
        cases = {size: samples * size // max(sizes) if weak else samples for size in sizes}
        figures: dict[int, list[dict[str, Any]]] = {size: [] for size in sizes}
        for _ in range(rounds):  # interleaved, as neighbours come and go
            for size, count in cases.items():
                part = {name: array[:count] for name, array in arrays.items()}
                figures[size].append(_quantized(model, part, options, size))
        for size, count in cases.items():
            click.echo(runs.row(_cells("weak" if weak else "strong", size, count, figures)))


def _cells(kind: str, size: int, samples: int, figures: dict[int, list[dict[str, Any]]]) -> Iterator[str]:
    yield from (kind, str(size), str(samples))
    medians = {each: _medians(found) for each, found in figures.items()}
    totals = {each: sum(found.values()) for each, found in medians.items()}
    yield from (f"{medians[size][stage]:.1f} s" for stage in _SHARED)
    yield f"{totals[size]:.1f} s"
    yield f"{totals[min(totals)] / totals[size]:.2f}"
    yield ", ".join(sorted({figure["sha256"][:12] for figure in figures[size]}))


def _medians(found: Sequence[dict[str, Any]]) -> dict[str, float]:
    return {stage: statistics.median(each["stages"].get(stage, 0.0) for each in found) for stage in _SHARED}


def _quantized(model: Path, arrays: dict[str, np.ndarray], options: Sequence[str], size: int) -> dict[str, Any]:
    """The stages of a run by so many processes, and what its file hashes to."""
    with tempfile.TemporaryDirectory() as folder:
        data, output, report = (Path(folder) / name for name in ("calib.npz", "out.onnx", "report.json"))
        np.savez(data, **arrays)  # type: ignore[arg-type]
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)] if size > 1 else []
        command = [sys.executable, *launcher, "-m", "ptq", "quantize", str(model), "--data", str(data), *options]
        told = {"OMP_NUM_THREADS": "1", "PTQ_CACHE": str(Path(folder) / "cache")}
        done = subprocess.run(
            [*command, "-o", str(output), "--json", str(report)],
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | told,
        )
        if done.returncode != 0:
            raise click.ClickException(f"{size} processes: {done.stderr.strip()[-2000:]}")
        stages = json.loads(report.read_text())["stages"]
        return {"stages": stages, "sha256": hashlib.sha256(output.read_bytes()).hexdigest()}


if __name__ == "__main__":
    main()
