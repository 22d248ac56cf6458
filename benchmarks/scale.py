"""How large a model can be: time, memory and bytes a second of quantizing decoders, against the disk's own copy.

    python benchmarks/scale.py /tmp/decoders --size 1b --size 3b --method rtn --weights int4 --group 32

Decoders with random weights are written to the folder once (4, 13 and 28 GB in FP32). Each figure is from a process of
its own, which has nothing in the disk's cache or in that of earlier runs: the seconds up to the written file, those of
the stages, and the peak of the resident memory. A copy of the weights, with what it takes until they are on the disk,
comes before each run. Audit and evaluation are not part of it.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import decoder
import runs

from ptq.audit.memory import peak
from ptq.pipeline import Job, run
from ptq.pipeline.stages import Advance, Stages
from ptq.recipe import Recipe

COLUMNS = (
    *("decoder", "weights", "FP32", "copy", "quantization", "of the copy's speed"),
    *("peak", "largest weight", "4 of it + 500 MB", "file", "seconds by stage"),
)
_PIECE = 1 << 24


@click.command()
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
@click.option("--size", "sizes", type=click.Choice(list(decoder.SIZES)), multiple=True, default=["1b"])
@click.option("--rounds", default=1, show_default=True)
@click.option("--threads", default=1, show_default=True)
@click.option("--data", type=click.Path(exists=True, path_type=Path), help="For methods that calibrate.")
@click.option("--method", default="rtn", show_default=True)
@click.option("--weights", default="int4", show_default=True)
@click.option("--group", default="32", show_default=True)
@click.option("--one", is_flag=True, help="Quantize the first decoder in this process and print its figures.")
def main(
    folder: Path, sizes: Sequence[str], rounds: int, threads: int, data: Path | None, *, one: bool, **recipe: str
) -> None:
    """Quantize decoders in FOLDER."""
    if one:
        click.echo(json.dumps(_quantized(folder / f"{sizes[0]}.onnx", data, recipe, threads)))
        return
    folder.mkdir(parents=True, exist_ok=True)
    options = [word for name, value in recipe.items() for word in (f"--{name}", value)]
    options += [] if data is None else ["--data", str(data)]
    click.echo(f"{' '.join(options)}, {threads} thread{'s' * (threads > 1)}, {runs.headline()}\n")
    click.echo(runs.head(COLUMNS))
    for size in sizes:
        path = folder / f"{size}.onnx"
        if not path.exists():
            decoder.write(decoder.SIZES[size], path)
        copies, figures = list[float](), list[dict[str, Any]]()
        for _ in range(rounds):
            copies.append(_copied(Path(f"{path}.data")))
            figures.append(_apart(folder, size, threads, options))
        click.echo(runs.row(_cells(size, path, copies, figures)))


def _cells(size: str, path: Path, copies: Sequence[float], figures: Sequence[dict[str, Any]]) -> Iterator[str]:
    sizes = decoder.SIZES[size]
    megabytes = Path(f"{path}.data").stat().st_size / 1e6
    copy, quantized = (statistics.median(each) for each in (copies, [figure["seconds"] for figure in figures]))
    largest = 4 * sizes.largest / 1e6
    yield from (size, f"{sizes.weights / 1e9:.2f} billion", f"{megabytes / 1e3:.1f} GB")
    yield f"{copy:.0f} s, {megabytes / copy:.0f} MB/s"
    yield f"{quantized:.0f} s, {megabytes / quantized:.0f} MB/s"
    yield f"{copy / quantized:.2f}"
    yield f"{max(figure['peak_bytes'] for figure in figures) / 1e6:.0f} MB"
    yield from (f"{largest:.0f} MB", f"{4 * largest + 500:.0f} MB", f"{figures[0]['bytes'] / 1e9:.2f} GB")
    stages = figures[0]["stages"]
    yield ", ".join(f"{name} {statistics.median(each['stages'][name] for each in figures):.0f}" for name in stages)


def _copied(path: Path) -> float:
    """Seconds to copy a file that is not in memory, until the copy is on the disk."""
    _forget(path)
    with tempfile.NamedTemporaryFile(dir=path.parent) as copy, path.open("rb") as file:
        start = time.perf_counter()
        shutil.copyfileobj(file, copy, _PIECE)
        copy.flush()
        os.fsync(copy.fileno())
        return time.perf_counter() - start


def _forget(path: Path) -> None:
    """Let the system have nothing of a file in memory."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _apart(folder: Path, size: str, threads: int, options: Sequence[str]) -> dict[str, Any]:
    """What a process of its own prints, which finds nothing done."""
    _forget(folder / f"{size}.onnx.data")
    with tempfile.TemporaryDirectory(dir=folder) as cache:
        command = [sys.executable, __file__, str(folder), "--size", size, "--one", "--threads", str(threads)]
        told = {"OMP_NUM_THREADS": str(threads), "PTQ_CACHE": cache}
        done = subprocess.run([*command, *options], capture_output=True, text=True, check=False, env=os.environ | told)
    if done.returncode != 0:
        said = done.stderr.strip().splitlines()
        raise click.ClickException(f"{size}: {said[-1] if said else f'exit code {done.returncode}'}")
    found: dict[str, Any] = json.loads(done.stdout)
    return found


class _WrittenError(Exception):
    """The file is there, the audit would begin."""


class _Costs(Stages):
    """Ends the run where the audit begins, with the bytes of the file that is there by then."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        self.bytes = 0

    @contextmanager
    def shown(self, name: str, total: int | None) -> Iterator[Advance]:  # noqa: ARG002
        """End where the audit begins."""
        if name == "audit":
            self.bytes = sum(each.stat().st_size for each in self._folder.rglob("*") if each.is_file())
            raise _WrittenError
        yield lambda: None


def _quantized(path: Path, data: Path | None, recipe: Mapping[str, str], threads: int) -> dict[str, Any]:
    """Seconds of a quantization up to the written file, by stage too, and the peak memory of this process."""
    import torch

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        costs, output = _Costs(Path(folder)), Path(folder) / "quantized.onnx"
        start = time.perf_counter()
        try:
            run(Job(path, None if data is None else str(data), output=output), Recipe.of(dict(recipe)), costs)
        except _WrittenError:
            seconds = time.perf_counter() - start
            return {"seconds": seconds, "peak_bytes": peak(), "stages": costs.seconds, "bytes": costs.bytes}
    raise click.ClickException("the run had no audit, so that its end was not seen")


if __name__ == "__main__":
    main()
