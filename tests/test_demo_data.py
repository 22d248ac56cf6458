"""The files of examples/digits: what `make demo` and other tests rely on."""

from __future__ import annotations

import importlib.util
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

DIGITS = Path(__file__).parent.parent / "examples" / "digits"


@pytest.fixture(scope="module")
def program() -> torch.export.ExportedProgram:
    return torch.export.load(io.BytesIO((DIGITS / "model.pt").read_bytes()))


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    calibration, evaluation = (np.load(DIGITS / f"{name}.npz", allow_pickle=False) for name in ("calib", "eval"))
    assert set(calibration) == {"image"}
    assert set(evaluation) == {"image", "labels"}
    return {"calibration": calibration["image"], "evaluation": evaluation["image"], "labels": evaluation["labels"]}


def test_the_files_are_small() -> None:
    sizes = {path.name: path.stat().st_size for path in DIGITS.iterdir() if path.suffix in {".pt", ".npz"}}
    assert set(sizes) == {"model.pt", "calib.npz", "eval.npz"}
    assert sum(sizes.values()) < 3_000_000


def test_arrays_are_normalised_digits(arrays: dict[str, np.ndarray]) -> None:
    for name in ("calibration", "evaluation"):
        images = arrays[name]
        assert images.dtype == np.float32
        assert images.shape[1:] == (1, 28, 28)
        pixels = (images * np.float32(0.3081) + np.float32(0.1307)) * 255
        np.testing.assert_allclose(pixels, np.rint(pixels), atol=1e-3)
        assert (np.rint(pixels).min(), np.rint(pixels).max()) == (0, 255)
    assert len(arrays["calibration"]) == 128
    assert np.bincount(arrays["labels"]).tolist() == [100] * 10


def test_nothing_is_both_calibrated_on_and_evaluated(arrays: dict[str, np.ndarray]) -> None:
    calibration, evaluation = ({image.tobytes() for image in arrays[k]} for k in ("calibration", "evaluation"))
    assert len(calibration) == 128
    assert not calibration & evaluation


def test_the_program_is_a_trained_network(program: torch.export.ExportedProgram, arrays: dict[str, np.ndarray]) -> None:
    network, images = program.module(), torch.from_numpy(arrays["evaluation"])
    with torch.inference_mode():
        logits = network(images)
        torch.testing.assert_close(network(images[:1]), logits[:1], rtol=1e-4, atol=1e-4)
    assert tuple(logits.shape) == (1000, 10)
    assert (logits.argmax(1).numpy() == arrays["labels"]).mean() >= 0.975


def test_the_program_is_the_network_beside_it(program: torch.export.ExportedProgram) -> None:
    spec = importlib.util.spec_from_file_location("digits_network", DIGITS / "network.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    network = module.digits_resnet()
    network.load_state_dict(dict(program.state_dict))
    image = torch.linspace(-1, 2, 2 * 28 * 28).reshape(2, 1, 28, 28)
    with torch.inference_mode():
        torch.testing.assert_close(network.eval()(image), program.module()(image))


def test_the_program_names_nobodys_folders() -> None:
    with zipfile.ZipFile(DIGITS / "model.pt") as archive:
        graph = next(name for name in archive.namelist() if name.endswith("models/model.json"))
        assert b"stack_trace" not in archive.read(graph)
