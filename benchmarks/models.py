"""Make the models and data that `methods.py` compares: EfficientNet-Lite0, MiniLM, SmolLM2 and the digits ResNet.

    python benchmarks/models.py LOADERS MODELS --only lite0,minilm

LOADERS is a folder with modules that read them from installed packages: `efficientnet_lite0`, `minilm`, `smollm2` and
`digits`. Each model becomes NAME.onnx with NAME_calib.npz and NAME_eval.npz in MODELS, with any number of samples at a
time; a model whose three files are there is not made again.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import torch
from onnx_ir.passes.common import ClearMetadataAndDocStringPass
from torch.export import Dim

OPSET: Final = 23
_TOKENS = 128
_WINDOW = 256
_IGNORED = -1
"""The label of a position that has no next token."""


@dataclass(frozen=True)
class Made:
    """A network with arrays by the names of its inputs, and labels of those to evaluate on where there are any."""

    network: torch.nn.Module
    calibration: Mapping[str, np.ndarray]
    evaluation: Mapping[str, np.ndarray]
    labels: np.ndarray | None = None


def lite0() -> Made:
    """Photographs: 64 to calibrate on, 123 others with labels."""
    network, calibration, images, labels = importlib.import_module("efficientnet_lite0").load(64)
    return Made(network, {"x": calibration[:64]}, {"x": images}, labels)


def minilm() -> Made:
    """Texts of 128 tokens, shorter ones filled up and masked: 64 news to calibrate on, 50 others without labels."""
    loader = importlib.import_module("minilm")
    texts = {"calibration": loader.calibration_texts(64), "evaluation": loader.lee()[0]}
    names = ("input_ids", "attention_mask")
    tokens = {
        key: dict(zip(names, loader.encode(each, _TOKENS, pad_to=_TOKENS), strict=True)) for key, each in texts.items()
    }
    return Made(loader.model(), **tokens)


def smollm2() -> Made:
    """Windows of 256 tokens of news: 16 to calibrate on, 24 others, labelled with the token that follows."""
    loader = importlib.import_module("smollm2")
    calibration, windows = loader.windows(16, _WINDOW, skip_docs=200), loader.windows(24, _WINDOW)
    labels = np.full_like(windows, _IGNORED)
    labels[:, :-1] = windows[:, 1:]
    return Made(loader.model(), {"input_ids": calibration}, {"input_ids": windows}, labels)


def digits() -> Made:
    """Digits over photographs: 64 to calibrate on, 1000 others with labels."""
    network, calibration, images, labels = importlib.import_module("digits").load("resnet", 64)
    return Made(network, {"x": calibration[:64]}, {"x": images}, labels)


MODELS: Final[Mapping[str, Callable[[], Made]]] = {
    "lite0": lite0,
    "minilm": minilm,
    "smollm2": smollm2,
    "digits": digits,
}


@click.command()
@click.argument("loaders", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.argument("folder", metavar="MODELS", type=click.Path(file_okay=False, path_type=Path))
@click.option("--only", metavar="NAME,...", help=f"Of {', '.join(MODELS)}.")
def main(loaders: Path, folder: Path, only: str | None) -> None:
    """Write models and data that the LOADERS read to MODELS."""
    names = list(MODELS) if only is None else only.split(",")
    for name in names:
        if name not in MODELS:
            raise click.UsageError(f"unknown model {name!r}; take of {', '.join(MODELS)}")
    sys.path.insert(0, str(loaders))
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        files = [folder / f"{name}{end}" for end in (".onnx", "_calib.npz", "_eval.npz")]
        if all(path.exists() for path in files):
            continue
        try:
            made = MODELS[name]()
        except ModuleNotFoundError as error:
            raise click.ClickException(f"{name}: {error}; install the packages that the loaders name") from None
        click.echo(f"{name}: {_write(made, *files)}")


def _write(made: Made, model: Path, calibration: Path, evaluation: Path) -> str:
    """The model last, so that what is cut off is made again."""
    labels: dict[str, Any] = {} if made.labels is None else {"labels": np.asarray(made.labels)}
    np.savez(calibration, **_stored(made.calibration))
    np.savez(evaluation, **_stored(made.evaluation), **labels)
    example = {name: torch.from_numpy(np.asarray(array[:2])) for name, array in _stored(made.evaluation).items()}
    with torch.no_grad():
        program = torch.onnx.export(
            made.network.eval(),
            tuple(example.values()),
            dynamo=True,
            opset_version=OPSET,
            input_names=list(example),
            dynamic_shapes=tuple({0: Dim("batch")} for _ in example),
            verbose=False,
        )
    if program is None:
        raise AssertionError
    ClearMetadataAndDocStringPass()(program.model)  # of the paths of this machine, so that another makes the same file
    program.save(str(model))
    samples = [len(next(iter(each.values()))) for each in (made.calibration, made.evaluation)]
    return f"{model.stat().st_size / 1e6:.1f} MB, {samples[0]} samples to calibrate on and {samples[1]} to evaluate on"


def _stored(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Images in float32; tokens as they are."""
    return {name: array.astype(np.float32) if array.dtype.kind == "f" else array for name, array in arrays.items()}


if __name__ == "__main__":
    main()
