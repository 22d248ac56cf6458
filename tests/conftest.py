"""What tests share: the digits network of the demo as ONNX, captured once, a few of its images, and less measuring."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest
from command import Command, Run
from small_folder import Folder, filled
from sparing import spare_memory, spare_portability, spare_prediction

from cli import main
from ptq.model.capture import CaptureOptions, capture
from ptq.model.graph import Model
from ptq.model.save import serialized

DIGITS = Path(__file__).parents[1] / "examples" / "digits"


@pytest.fixture(autouse=True)
def memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.node.get_closest_marker("measures_memory") is None:
        spare_memory(monkeypatch.setattr)


@pytest.fixture(autouse=True)
def quickly(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    spare_prediction(monkeypatch.setattr)
    if request.node.get_closest_marker("portability") is None:
        spare_portability(monkeypatch.setattr)


@pytest.fixture
def ptq(capfd: pytest.CaptureFixture[str]) -> Command:
    def command(*arguments: object) -> Run:
        handler = signal.getsignal(signal.SIGTERM)
        try:
            with pytest.raises(SystemExit) as stop:
                main([str(each) for each in arguments])
        finally:
            signal.signal(signal.SIGTERM, handler)
        captured = capfd.readouterr()
        return Run(int(stop.value.code or 0), captured.out, captured.err)

    return command


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return filled(tmp_path)


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
