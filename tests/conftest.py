"""The digits network of the demo as ONNX, captured once, and a few of its images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ptq.model.capture import CaptureOptions, capture
from ptq.model.graph import Model
from ptq.model.save import serialized

DIGITS = Path(__file__).parents[1] / "examples" / "digits"


@pytest.fixture(scope="session")
def digit_images() -> dict[str, np.ndarray]:
    with np.load(DIGITS / "calib.npz") as arrays:
        (name,) = [name for name in arrays.files if name != "labels"]
        return {name: arrays[name][:16]}


@pytest.fixture(scope="session")
def digits(digit_images: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network as a file."""
    path = tmp_path_factory.mktemp("digits") / "digits.onnx"
    path.write_bytes(serialized(Model(capture(DIGITS / "model.pt", CaptureOptions(), digit_images))))
    return path


@pytest.fixture(scope="session")
def digits_model(digits: Path) -> Model:
    return Model.of(capture(digits, CaptureOptions(), None))
