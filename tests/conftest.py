"""What tests share: the digits network of the demo as ONNX, captured once, a few of its images, and less measuring."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from command import Command, Run
from small_folder import Folder, filled
from sparing import spare_latency, spare_memory, spare_portability, spare_prediction
from tiny_models import Convolutions, images, seeded

from cli import main
from ptq.model.capture import CaptureOptions, capture
from ptq.model.graph import Model
from ptq.model.save import serialized

DIGITS = Path(__file__).parents[1] / "examples" / "digits"

SPARED = {"measures_memory": spare_memory, "measures_latency": spare_latency, "portability": spare_portability}
"""What takes long of any run and is measured only for the tests that are about it, by their marks."""


@pytest.fixture(scope="session", autouse=True)
def cache_of_fixtures(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is kept of runs is kept apart from that of the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PTQ_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """And each test begins with nothing."""
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("PTQ_CACHE", str(folder))
    return folder


@pytest.fixture(scope="session", autouse=True)
def spared() -> Iterator[dict[str, pytest.MonkeyPatch]]:
    with pytest.MonkeyPatch.context() as always:
        spare_prediction(always.setattr)
        patches = {mark: pytest.MonkeyPatch() for mark in SPARED}
        for mark, patch in patches.items():
            SPARED[mark](patch.setattr)
        yield patches
        for patch in patches.values():
            patch.undo()


@pytest.fixture(autouse=True)
def measured(request: pytest.FixtureRequest, spared: dict[str, pytest.MonkeyPatch]) -> Iterator[None]:
    marks = [mark for mark in SPARED if request.node.get_closest_marker(mark) is not None]
    for mark in marks:
        spared[mark].undo()
    yield
    for mark in marks:
        SPARED[mark](spared[mark].setattr)


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
def convolutions() -> onnx.ModelProto:
    """The torch network of that name as ONNX, for tests that are not about the way there."""
    graph = capture(seeded(Convolutions), CaptureOptions(), {"image": images(1)})
    return onnx.load_from_string(serialized(Model(graph)))


@pytest.fixture(scope="session")
def digits_model(digits: Path) -> Model:
    return Model.of(capture(digits, CaptureOptions(), None))
