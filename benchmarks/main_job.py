"""Run the main job on a model of yours and print what came out, as a table for the README.

    python benchmarks/main_job.py MODEL --data calib.npz --eval eval.npz --try "--bits 4.1" --try "--bits 4.4"

Every line is a whole `ptq quantize` in a process of its own: accuracy, size, latency ratio (interleaved, one thread,
median) from its report, wall time and peak memory from the outside. An ONNX model is also quantized to int8 with ONNX
Runtime's own quantizer as a baseline, as its documentation advises (convolutions static, transformers dynamic, weights
per channel, activations uint8), and the latency of every run is measured against that too, in the same way.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx_ir as ir
import runs
from onnxruntime import quantization

from calibration.dataset import fit
from calibration.sources import open_data
from ptq.audit import file_bytes, latency
from ptq.evaluate import Accuracy, evaluate
from ptq.model.files import Kind, detect
from ptq.model.graph import Model
from ptq.model.session import Session

COLUMNS = ("run", "top-1", "agreement", "SQNR", "cosine", "MB", "bits", "latency", "of int8", "seconds", "peak GB")


@click.command()
@click.argument("model", type=click.Path(exists=True, path_type=Path))
@click.option("--data", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--eval", "evaluation", required=True, type=click.Path(exists=True, path_type=Path))
@click.option("--try", "tried", multiple=True, required=True, help="Options of one run; may be repeated.")
@click.option("--baseline/--no-baseline", default=True, help="Also ONNX Runtime's own int8, for an ONNX model.")
def main(model: Path, data: Path, evaluation: Path, tried: tuple[str, ...], *, baseline: bool) -> None:
    """Quantize MODEL once for each --try and print a table."""
    task = runs.Task(model, data, evaluation)
    click.echo(f"{model.name}, {runs.headline()}\n\n{runs.head(COLUMNS)}")
    with tempfile.TemporaryDirectory() as folder:
        int8 = Path(folder) / "int8.onnx" if baseline and detect(model) is Kind.ONNX else None
        if int8 is not None:
            accuracy = _plain_int8(task, int8)
            ratio = _latency(model, int8, evaluation)
            click.echo(_line("ONNX Runtime int8", accuracy, file_bytes(int8), 8.0, ratio))
        for number, options in enumerate(tried):
            output = Path(folder) / f"{number}.onnx"
            run = runs.quantize(task, options.split(), output)
            against = "" if int8 is None else f"{_latency(int8, output, evaluation):.2f}x"
            more = (against, f"{run.seconds:.0f}", f"{run.peak_bytes / 1e9:.2f}")
            file, bits = run.report.file, run.report.bits_per_weight
            click.echo(_line(options, run.accuracy, file.bytes, bits, file.latency_ratio, *more))


def _latency(reference: Path, quantized: Path, evaluation: Path) -> float:
    """The time of a run of one sample, as a multiple of another file's."""
    sample = next(fit(open_data(evaluation), Model(ir.load(reference)).inputs).batches(1))
    return latency(Session(reference), Session(quantized), sample.feeds).ratio


def _plain_int8(task: runs.Task, output: Path) -> Accuracy:
    """Write the file that ONNX Runtime's own quantizer makes."""
    graph = ir.load(task.model)
    inputs = Model(graph).inputs
    batches = fit(open_data(task.data), inputs)

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left: Iterator[Any] = iter(batches.batches(1))

        def get_next(self) -> dict[str, np.ndarray] | None:
            batch = next(self.left, None)
            return None if batch is None else dict(batch.feeds)

    paths = (str(task.model), str(output))
    if any(node.op_type == "Conv" for node in graph.graph):
        kind = quantization.QuantType.QUInt8
        quantization.quantize_static(*paths, Reader(), per_channel=True, activation_type=kind)
    else:
        quantization.quantize_dynamic(*paths, per_channel=True, weight_type=quantization.QuantType.QInt8)
    unseen = fit(open_data(task.evaluation), inputs)
    reference, quantized = Session(task.model), Session(output)
    return evaluate(reference, quantized, unseen.batches(4))


def _line(name: str, accuracy: Accuracy, size: int, bits: float, latency: float | None, *more: str) -> str:
    of_float, own = runs.scored(accuracy, "top-1")
    top1 = "" if own is None else f"{100 * own:.1f} (of {100 * (of_float or 0):.1f})"
    agreement = "" if accuracy.agreement is None else f"{100 * accuracy.agreement:.1f}"
    sqnr = "" if accuracy.sqnr_db is None else f"{accuracy.sqnr_db:.1f}"
    cosine = "" if accuracy.cosine is None else f"{accuracy.cosine:.4f}"
    ratio = "" if latency is None else f"{latency:.2f}x"
    cells = [name, top1, agreement, sqnr, cosine, f"{size / 1e6:.2f}", f"{bits:.2f}", ratio, *more]
    return runs.row([*cells, *[""] * (len(COLUMNS) - len(cells))])


if __name__ == "__main__":
    main()
