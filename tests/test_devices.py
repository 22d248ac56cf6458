"""Solving on a GPU; the device that holds no numbers stands for one where there is none."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from command import Command
from torch import Tensor

import ptq as library
from ptq.devices import Following, brought
from ptq.errors import ModelError, OptionError
from ptq.model.session import Session, runs_on

META = torch.device("meta")


@pytest.mark.parametrize(
    "call",
    [
        lambda here, there: here + there,
        lambda here, there: there.mul(here),
        lambda here, there: torch.where(there > 0, here, there),
        lambda here, there: torch.cat([here, there]),
        lambda here, there: there[here.long()],
        lambda here, there: here[there.long()],
        lambda here, there: torch.empty_like(there).copy_(here),
        lambda here, there: torch.add(here, 1, out=there),
    ],
)
def test_numbers_follow_those_on_the_device(call: Callable[[Tensor, Tensor], Tensor]) -> None:
    with Following():
        assert call(torch.arange(3.0), torch.ones(3, device=META)).device == META


def test_a_tensor_that_is_changed_stays_where_it_is() -> None:
    here, there = torch.zeros(3, device=META), torch.arange(3.0)
    with Following():
        here[1:] = there[1:]
        here += there
        here.add_(there)
    assert here.device == META


def test_without_it_devices_do_not_mix() -> None:
    with pytest.raises(RuntimeError, match="meta"):
        torch.arange(3.0) + torch.ones(3, device=META)


def test_tensors_in_dataclasses_are_brought() -> None:
    value = (torch.arange(3.0), None, {"a": torch.ones(2)})
    there = brought(value, "meta")
    assert there[0].device == META
    assert there[2]["a"].shape == (2,)


def test_a_device_that_is_not_there_is_refused(ptq: Command, digits: Path) -> None:
    ptq("quantize", digits, "--device", "tpu").fails("--device 'tpu' is not known; give cpu, cuda or cuda:1", code=2)
    if not torch.cuda.is_available():
        ptq("quantize", digits, "--device", "cuda").fails("finds no GPU; install a build for CUDA", code=2)
        with pytest.raises(OptionError, match="finds no GPU"):
            library.quantize(digits, device="cuda")


def test_calibration_runs_on_the_gpu_where_onnx_runtime_does(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(ort, "InferenceSession", lambda *_, providers: asked.append(providers))
    for device in ("cpu", "cuda:1"):
        with pytest.raises(ModelError, match="does not load"):  # what is asked for is no session
            Session(b"", device=device)
    assert asked == [["CPUExecutionProvider"], [("CUDAExecutionProvider", {"device_id": "1"}), "CPUExecutionProvider"]]
    assert runs_on("cpu")
    assert runs_on("cuda:1") is ("CUDAExecutionProvider" in ort.get_available_providers())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("method", ["rtn", "gptq", "multipoint", "hqq", "adaround", "gpfq", "ocs"])
def test_what_is_solved_on_a_gpu_is_that_of_the_cpu(
    method: str, digits: Path, digit_images: dict[str, np.ndarray]
) -> None:
    """But for steps between which a weight lies as exactly as float32 tells; the tolerance is that of the output."""
    data = {"image": digit_images["image"][:64]}
    found = [library.quantize(digits, data, eval_data=data, method=method, device=each) for each in ("cpu", "cuda")]
    here, there = (each.report.accuracy for each in found)
    assert here is not None
    assert there is not None
    assert abs(here.sqnr_db - there.sqnr_db) < 0.5
