"""What tests share: the digits network of the demo as ONNX, captured once, a few of its images, and less measuring."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

from ptq.model.capture import CaptureOptions, capture
from ptq.model.graph import Model
from ptq.model.save import serialized

DIGITS = Path(__file__).parents[1] / "examples" / "digits"


@pytest.fixture(autouse=True)
def memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Peaks are measured in processes of their own, a third of a second each: only for tests that are about them."""
    if request.node.get_closest_marker("measures_memory") is None:
        audit = importlib.import_module("ptq.audit.audit")  # the package has a function of that name
        monkeypatch.setattr(audit, "peak_bytes", lambda *_: 1 << 20)


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
