"""Graphs captured from modules, programs and TorchScript compute what torch computes, for any batch."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx_ir as ir
import pytest
import torch
from captured import same_as_torch, scripted, specs, traced
from tiny_models import Convolutions, FixedBatch, Tokens, images, matmul_onnx, seeded, sentences
from torch import Tensor, nn

from calibration.spec import InputSpec
from ptq.errors import ModelError, OptionError
from ptq.model.capture import CaptureOptions, capture
from ptq.model.graph import Model

DEFAULTS = CaptureOptions()
ROW = np.linspace(-1, 1, 4, dtype=np.float32)[None]


def stored(path: Path, save: Callable[[io.BytesIO], object]) -> Path:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        save(buffer)
    path.write_bytes(buffer.getvalue())
    return path


@pytest.fixture(scope="module")
def convolutions_graph() -> ir.Model:
    return capture(seeded(Convolutions), DEFAULTS, {"image": images(1)})


def test_a_module_for_any_batch(convolutions_graph: ir.Model) -> None:
    assert specs(convolutions_graph) == ["image:float32[batch,3,8,8]"]
    assert str(convolutions_graph.graph.outputs[0].shape[0]) == "batch"
    for count in (1, 3):
        same_as_torch(convolutions_graph, seeded(Convolutions), {"image": images(count, seed=1)})


def test_sites_have_the_names_of_modules(convolutions_graph: ir.Model) -> None:
    assert [site.name for site in Model.of(convolutions_graph).sites] == ["stem", "depthwise", "head"]


def test_the_module_is_left_as_it_was(capfd: pytest.CaptureFixture[str]) -> None:
    module = seeded(Convolutions).train()
    module.norm.eval()
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    graph = capture(module, DEFAULTS, {"image": images(2)})
    assert {name for name, part in module.named_modules() if not part.training} == {"norm"}
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in module.parameters())
    same_as_torch(graph, seeded(Convolutions), {"image": images(3)})
    assert capfd.readouterr() == ("", "")


def test_tokens_for_any_batch_and_length() -> None:
    graph = capture(seeded(Tokens), DEFAULTS, sentences(4, 6))
    assert specs(graph) == ["ids:int64[batch,seq]", "mask:int64[batch,seq]"]
    for count, length in ((1, 5), (3, 9)):
        same_as_torch(graph, seeded(Tokens), sentences(count, length, seed=1))


def test_a_batch_that_cannot_be_free_stays_fixed() -> None:
    graph = capture(seeded(FixedBatch), DEFAULTS, {"x": ROW.repeat(2, 0)})
    assert specs(graph) == ["x:float32[2,4]"]
    same_as_torch(graph, seeded(FixedBatch), {"x": ROW.repeat(2, 0)})


class TwoAtATime(nn.Module):
    """Attends to token ids of one fixed length."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 3)
        self.linear = nn.Linear(18, 2)

    def forward(self, ids: Tensor, scale: Tensor | None = None) -> Tensor:
        x = self.linear(self.embedding(ids).flatten(1))
        return x if scale is None else x * scale


def test_a_length_that_cannot_be_free_stays_fixed_and_the_batch_is_free() -> None:
    graph = capture(seeded(TwoAtATime), DEFAULTS, {"ids": sentences(2, 6)["ids"]})
    assert specs(graph) == ["ids:int64[batch,6]"]
    same_as_torch(graph, seeded(TwoAtATime), {"ids": sentences(3, 6)["ids"]})


class Looping(nn.Module):
    """Its control flow depends on its data, which no exporter follows."""

    def forward(self, x: Tensor) -> Tensor:
        while x.sum() > 1:
            x = x / 2
        return x


def test_a_failed_export_is_one_line(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ModelError, match="the model cannot be exported to ONNX") as caught:
        capture(Looping(), DEFAULTS, {"x": ROW})
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("dynamic", [True, False])
def test_a_program_for_any_batch(dynamic: bool, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Its own batch is free, or fixed at 1 and made free."""
    shapes = ({0: torch.export.Dim("n")},) if dynamic else None
    example = torch.from_numpy(images(2 if dynamic else 1))
    program = torch.export.export(seeded(Convolutions), (example,), dynamic_shapes=shapes)
    path = stored(tmp_path / "program.onnx", lambda buffer: torch.export.save(program, buffer))
    graph = capture(path, DEFAULTS)
    assert specs(graph) == ["image:float32[batch,3,8,8]"]
    assert [site.name for site in Model.of(graph).sites] == ["stem", "depthwise", "head"]
    for count in (1, 3):
        same_as_torch(graph, seeded(Convolutions), {"image": images(count, seed=1)})
    assert capfd.readouterr() == ("", "")


def test_a_program_in_memory_whose_batch_is_part_of_it_keeps_it() -> None:
    program = torch.export.export(seeded(FixedBatch), (torch.zeros(2, 4),))
    graph = capture(program, DEFAULTS)
    assert specs(graph) == ["x:float32[2,4]"]
    same_as_torch(graph, seeded(FixedBatch), {"x": ROW.repeat(2, 0)})


def test_a_program_in_training_mode_is_refused() -> None:
    example = torch.from_numpy(images(2))
    with pytest.raises(ModelError, match=r"in training mode, as its aten.batch_norm.* shows; call model.eval\(\)"):
        capture(torch.export.export(seeded(Convolutions).train(), (example,)), DEFAULTS)
    with pytest.raises(ModelError, match=r"in training mode, as its aten.dropout"):
        capture(torch.export.export(nn.Dropout(), (example,)), DEFAULTS)


def test_a_program_with_keyword_inputs() -> None:
    ids, mask = map(torch.from_numpy, sentences(2, 6).values())
    graph = capture(torch.export.export(seeded(Tokens), (ids,), {"mask": mask}), DEFAULTS)
    assert specs(graph) == ["ids:int64[batch,seq]", "mask:int64[batch,seq]"]
    same_as_torch(graph, seeded(Tokens), sentences(3, 9, seed=1))


@pytest.mark.parametrize("compiled", [scripted, lambda module: traced(module, torch.from_numpy(images(2)))])
def test_torchscript_for_any_batch(
    compiled: Callable[[nn.Module], nn.Module], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    module = compiled(seeded(Convolutions))
    path = stored(tmp_path / "script.onnx", lambda buffer: torch.jit.save(module, buffer))
    graph = capture(path, DEFAULTS, {"image": images(1)})
    assert specs(graph) == ["image:float32[batch,3,8,8]"]
    assert {site.name for site in Model.of(graph).sites} == {"stem", "depthwise", "head"}
    for count in (1, 3):
        same_as_torch(graph, seeded(Convolutions), {"image": images(count, seed=1)})
    assert capfd.readouterr() == ("", "")


def test_torchscript_of_tokens_for_any_length() -> None:
    graph = capture(scripted(seeded(Tokens)), DEFAULTS, sentences(2, 6))
    assert specs(graph) == ["ids:int64[batch,seq]", "mask:int64[batch,seq]"]
    same_as_torch(graph, seeded(Tokens), sentences(3, 9, seed=1))


def test_torchscript_whose_batch_is_part_of_it_keeps_it() -> None:
    module = traced(seeded(FixedBatch), torch.zeros(2, 4))
    graph = capture(module, DEFAULTS, {"x": ROW.repeat(2, 0)})
    assert specs(graph) == ["x:float32[2,4]"]
    same_as_torch(graph, seeded(FixedBatch), {"x": ROW.repeat(2, 0)})


def test_torchscript_in_training_is_exported_for_evaluation_and_left_in_training() -> None:
    module = scripted(seeded(Convolutions)).train()
    graph = capture(module, DEFAULTS, {"image": images(2)})
    assert module.training
    assert module.drop.training
    same_as_torch(graph, seeded(Convolutions), {"image": images(3)})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (CaptureOptions(model="a:b"), "an ONNX model holds its own; leave it out"),
        (CaptureOptions(inputs=(InputSpec.parse("x:float32[1,4]"),)), "an ONNX model knows its inputs"),
    ],
)
def test_an_option_that_nothing_reads(options: CaptureOptions, words: str) -> None:
    with pytest.raises(OptionError, match=words):
        capture(matmul_onnx(), options)


def test_a_thing_that_is_no_model() -> None:
    with pytest.raises(ModelError, match="the model is dict, not a model"):
        capture({}, DEFAULTS)  # type: ignore[arg-type]
