"""Run the main job on a model of yours and print what came out, as a table for the README.

    python benchmarks/main_job.py MODEL --data calib.npz --eval eval.npz --try "--bits 4.1" --try "--bits 4.4"

Every line is a whole `ptq quantize` in a process of its own: accuracy, size, latency ratio (interleaved, one thread,
median) from its report, wall time and peak memory from the outside. An ONNX model is also quantized to int8 with ONNX
Runtime's own quantizer as a baseline, as its documentation advises (convolutions static, transformers dynamic, weights
per channel, activations uint8), and the latency of every run is measured against that too, in the same way.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx_ir as ir

from ptq.model.files import Kind, detect

COLUMNS = "run | top-1 | agreement | SQNR | cosine | MB | bits | latency | of int8 | seconds | peak GB"
HEAD = f"| {COLUMNS} |\n" + "|---" * (COLUMNS.count("|") + 1) + "|"


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--eval", "evaluation", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--try", "runs", multiple=True, required=True, help="Options of one run; may be repeated.")
@click.option("--baseline/--no-baseline", default=True, help="Also ONNX Runtime's own int8, for an ONNX model.")
def main(model: Path, data: Path, evaluation: Path, runs: tuple[str, ...], *, baseline: bool) -> None:
    """Quantize MODEL once for each --try and print a table."""
    click.echo(f"{model.name}, {date.today().isoformat()}, {_versions()}\n\n{HEAD}")
    with tempfile.TemporaryDirectory() as folder:
        int8 = Path(folder) / "int8.onnx" if baseline and detect(model) is Kind.ONNX else None
        if int8 is not None:
            click.echo(_line("ONNX Runtime int8", _plain_int8(model, data, evaluation, int8)))
        for number, options in enumerate(runs):
            output = Path(folder) / f"{number}.onnx"
            report, seconds, peak = _quantize(model, data, evaluation, options.split(), output)
            against = "" if int8 is None else f"{_latency(int8, output, evaluation):.2f}x"
            click.echo(_line(options, report, against, f"{seconds:.0f}", f"{peak / 1e9:.2f}"))


def _quantize(
    model: Path, data: Path, evaluation: Path, options: list[str], output: Path
) -> tuple[dict[str, Any], float, int]:
    """The report of a run, its seconds and its peak memory in bytes."""
    report = output.with_suffix(".json")
    command = [sys.executable, "-m", "ptq", "quantize", str(model), "--data", str(data), "--eval", str(evaluation)]
    start = time.perf_counter()
    process = subprocess.Popen(
        [*command, *options, "-o", str(output), "--json", str(report)], stdout=subprocess.DEVNULL
    )
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - start
    if os.waitstatus_to_exitcode(status) != 0:
        raise click.ClickException(f"{' '.join(options)} failed; its message is above")
    return json.loads(report.read_text()), seconds, usage.ru_maxrss * 1024


def _latency(reference: Path, quantized: Path, evaluation: Path) -> float:
    """The time of a run of one sample, as a multiple of another file's."""
    from calibration.dataset import fit
    from calibration.sources import open_data
    from ptq.audit import costs
    from ptq.model.graph import Model
    from ptq.model.session import Session

    sample = next(fit(open_data(evaluation), Model(ir.load(reference)).inputs).batches(1))
    return costs.latency(Session(reference), Session(quantized), sample.feeds).ratio


def _plain_int8(model: Path, data: Path, evaluation: Path, output: Path) -> dict[str, Any]:
    """The same figures for the file that ONNX Runtime's own quantizer makes."""
    from onnxruntime import quantization

    from calibration.dataset import fit
    from calibration.sources import open_data
    from ptq.audit import costs
    from ptq.evaluate import evaluate
    from ptq.model.graph import Model
    from ptq.model.session import Session

    graph = ir.load(model)
    inputs = Model(graph).inputs
    batches = fit(open_data(data), inputs)

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[Any] = iter(batches.batches(1))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.left, None)
            return None if batch is None else dict(batch.feeds)

    paths = (str(model), str(output))
    if any(node.op_type == "Conv" for node in graph.graph):
        kind = quantization.QuantType.QUInt8
        quantization.quantize_static(*paths, Reader(), per_channel=True, activation_type=kind)
    else:
        quantization.quantize_dynamic(*paths, per_channel=True, weight_type=quantization.QuantType.QInt8)
    unseen = fit(open_data(evaluation), inputs)
    reference, quantized = Session(model), Session(output)
    accuracy = evaluate(reference, quantized, unseen.batches(4))
    return {
        "accuracy": vars(accuracy),
        "file": {"bytes": costs.file_bytes(output), "latency_ratio": _latency(model, output, evaluation)},
        "bits_per_weight": 8.0,
    }


def _line(name: str, report: dict[str, Any], against: str = "", seconds: str = "", peak: str = "") -> str:
    accuracy, file = report["accuracy"], report["file"]
    top1 = "" if accuracy["top1"] is None else f"{100 * accuracy['top1']:.1f} (of {100 * accuracy['top1_float']:.1f})"
    cells = [
        *(name, top1, f"{100 * accuracy['agreement']:.1f}", f"{accuracy['sqnr_db']:.1f}", f"{accuracy['cosine']:.4f}"),
        *(f"{file['bytes'] / 1e6:.2f}", f"{report['bits_per_weight']:.2f}", f"{file['latency_ratio']:.2f}x"),
        *(against, seconds, peak),
    ]
    return "| " + " | ".join(cells) + " |"


def _versions() -> str:
    names = ("ptq-toolkit", "onnxruntime", "torch")
    return ", ".join([*(f"{name} {metadata.version(name)}" for name in names), platform.machine()])


if __name__ == "__main__":
    main()
