"""Models from files: weights with their network, pickles with and without trust, ONNX with its external data."""

from __future__ import annotations

import io
import json
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from model_files import KINDS, model_files, saved
from safetensors.torch import save_file
from tiny_models import Convolutions, Multilayer, images, seeded
from torch import nn

from ptq.errors import ModelFileError, OptionError, PtqError, UntrustedPickleError
from ptq.model import checkpoints, programs
from ptq.model.capture import CaptureOptions, capture
from ptq.model.session import Session

DEFAULTS = CaptureOptions()
NETWORK = "tiny_models:convolutions"


class Bomb:
    """Unpickling it makes a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.path),))


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_weights_become_the_network_that_they_were_saved_from(tmp_path: Path) -> None:
    path = written(tmp_path / "weights.onnx", saved({"epoch": 1, "state_dict": seeded(Convolutions).state_dict()}))
    graph = capture(path, CaptureOptions(model=NETWORK), {"image": images(2)})
    with torch.no_grad():
        expected = seeded(Convolutions)(torch.from_numpy(images(3))).numpy()
    np.testing.assert_allclose(Session(graph).run({"image": images(3)})[0], expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["plain", "nested", "only entry", "parallel", "safetensors", "legacy", "half"])
def test_weights_of_all_forms(form: str, tmp_path: Path) -> None:
    state = seeded(Convolutions).state_dict()
    path = tmp_path / "weights.txt"
    if form == "safetensors":
        save_file(state, path)
    else:
        content = {
            "nested": {"model": state, "ema": state, "step": 3},
            "only entry": {"generator": state},
            "parallel": {f"module.{name}": tensor for name, tensor in state.items()},
            "half": {name: tensor.half() for name, tensor in state.items()},
        }.get(form, state)
        path.write_bytes(saved(content, _use_new_zipfile_serialization=form != "legacy"))
    loaded = checkpoints.with_state(NETWORK, checkpoints.load_state(path, safetensors=form == "safetensors"), path)
    for name, tensor in loaded.state_dict().items():
        assert torch.equal(tensor, state[name].half().to(tensor.dtype) if form == "half" else state[name]), name


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(3, 3), nn.Linear(3, 3)
        self.second.weight = self.first.weight


def test_tied_weights_may_be_stored_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = {name: torch.ones_like(t) for name, t in Tied().state_dict().items() if name != "second.weight"}
    monkeypatch.setattr("tiny_models.Tied", Tied, raising=False)
    loaded = checkpoints.with_state("tiny_models:Tied", state, tmp_path)
    assert loaded.second.weight.eq(1).all()


def test_weights_that_do_not_fit(tmp_path: Path) -> None:
    state = seeded(Convolutions).state_dict()
    del state["stem.bias"]
    state["extra.weight"] = torch.zeros(1)
    path = written(tmp_path / "weights.pt", saved(state))
    with pytest.raises(ModelFileError, match=r"1 missing \(stem.bias\) and 1 unexpected \(extra.weight\); make"):
        capture(path, CaptureOptions(model=NETWORK), {"image": images(2)})
    path.write_bytes(saved(seeded(Multilayer).state_dict()))
    with pytest.raises(
        ModelFileError, match=r"9 missing \(stem.weight, stem.bias, norm.weight, ...\) and 4 unexpected"
    ):
        capture(path, CaptureOptions(model=NETWORK), {"image": images(2)})
    path.write_bytes(saved(seeded(Convolutions).state_dict() | {"head.bias": torch.zeros(7)}))
    with pytest.raises(ModelFileError, match=r"size mismatch for head.bias: .*\[7\].*\[5\]") as caught:
        capture(path, CaptureOptions(model=NETWORK), {"image": images(2)})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content", [{"a": 1}, {"a": {"w": torch.zeros(1)}, "b": {"w": torch.zeros(1)}}, [torch.zeros(1)]]
)
def test_files_of_torch_without_a_dictionary_of_weights(content: object, tmp_path: Path) -> None:
    path = written(tmp_path / "weights.pt", saved(content))
    with pytest.raises(ModelFileError, match="no dictionary of weights by name but"):
        capture(path, CaptureOptions(model=NETWORK))


def test_weights_alone_are_not_enough(tmp_path: Path) -> None:
    path = written(tmp_path / "weights.pt", saved(seeded(Convolutions).state_dict()))
    with pytest.raises(OptionError, match=r"weights without their network; give --model package.module:callable"):
        capture(path, DEFAULTS)


BROKEN = "raise RuntimeError('no such luck')"


@pytest.mark.parametrize(
    ("specification", "words"),
    [
        ("networks", "is not package.module:callable"),
        (":make", "is not package.module:callable"),
        ("networks:", "is not package.module:callable"),
        ("no_such_module:make", "no_such_module cannot be imported"),
        (".relative:make", "cannot be imported"),
        ("broken:make", "broken cannot be imported .RuntimeError: no such luck"),
        ("networks:mke", "no 'mke' in it; did you mean 'make'"),
        ("networks:number", "is int, not callable"),
        ("networks:needy", "fails when called .TypeError: .*called without arguments"),
        ("networks:nothing", "returns NoneType; it has to return an nn.Module"),
    ],
)
def test_specifications_of_networks(
    specification: str, words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    (tmp_path / "networks.py").write_text("number = 3\ndef make(): ...\ndef needy(a): ...\ndef nothing(): ...\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(__import__("sys").modules, "networks", raising=False)
    path = written(tmp_path / "weights.pt", saved(seeded(Multilayer).state_dict()))
    with pytest.raises(OptionError, match=words) as caught:
        capture(path, CaptureOptions(model=specification))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}, {"pickle_protocol": 4}])
def test_a_pickled_bomb_is_refused_and_not_set_off(options: dict[str, object], tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    path = written(tmp_path / "model.pt", saved(Bomb(marker), **options))
    for more in ({}, {"model": NETWORK}):
        with pytest.raises(UntrustedPickleError, match=r"posix.mkdir.*any code; save the model with torch.export.save"):
            capture(path, CaptureOptions(**more), {"image": images(2)})
    assert not marker.exists()
    with pytest.raises(PtqError):
        capture(path, CaptureOptions(trust_pickle=True), {"image": images(2)})
    assert marker.exists()  # it would have gone off


def test_a_trusted_pickle_is_a_module(tmp_path: Path) -> None:
    path = written(tmp_path / "model.safetensors", saved(seeded(Multilayer).train()))
    graph = capture(path, CaptureOptions(trust_pickle=True), {"x": np.ones((2, 4), np.float32)})
    with torch.no_grad():
        expected = seeded(Multilayer)(torch.ones(3, 4)).numpy()
    np.testing.assert_allclose(Session(graph).run({"x": np.ones((3, 4), np.float32)})[0], expected, rtol=1e-5)


def test_a_pickle_whose_class_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path / "model.pt", saved(seeded(Multilayer)))
    monkeypatch.delattr("tiny_models.Multilayer")
    with pytest.raises(ModelFileError, match=r"cannot be imported .*Multilayer.*; install its package"):
        capture(path, CaptureOptions(trust_pickle=True))


def program(replaced: dict[str, bytes]) -> bytes:
    """A program some of whose members, by the ends of their names, hold something else; `+` adds one."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(model_files()["program"][1])) as source, zipfile.ZipFile(buffer, "w") as target:
        names = source.namelist()
        assert all(end[0] == "+" or any(name.endswith(end) for name in names) for end in replaced)
        for name in names:
            data = next((data for end, data in replaced.items() if name.endswith(end)), None)
            target.writestr(name, source.read(name) if data is None else data)
        for end, data in replaced.items():
            if end[0] == "+":
                target.writestr(end[1:], data)
    return buffer.getvalue()


def member(end: str) -> str:
    with zipfile.ZipFile(io.BytesIO(model_files()["program"][1])) as archive:
        return archive.read(next(name for name in archive.namelist() if name.endswith(end))).decode()


def test_a_program_with_a_bomb_inside_is_refused_and_not_set_off(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    config = json.loads(member("weights_config.json"))
    objects = {"config": {"a": {"path_name": "opaque_obj_0", "use_pickle": False}}}
    entry = next(iter(config["config"].values()))
    entry["use_pickle"] = True
    call = f"__import__('os').mkdir('{marker}')"
    graph = member("model.json")
    sizes = '{"as_int": 2}'
    assert sizes in graph
    formula = json.dumps({"as_expr": {"expr_str": call, "hint": {"as_int": 2}}})
    for replaced, words in (
        ({"sample_inputs/model.pt": saved(Bomb(marker))}, "sample_inputs/model.pt holds more than tensors"),
        (
            {"weights_config.json": json.dumps(config).encode(), entry["path_name"]: saved(Bomb(marker))},
            f"{entry['path_name']} holds more than tensors",
        ),
        ({"constants_config.json": json.dumps(objects).encode()}, "opaque_obj_0 holds more than tensors"),
        ({"models/model.json": graph.encode(), "+archive/models/other.txt!": b""}, "other.txt! is no part"),
        ({"+archive/data/aotinductor/model/model.so": b""}, "model.so is no part"),
        ({"model.json": graph.replace(sizes, formula, 1).encode()}, 'the formula "__import__'),
        ({"model.json": graph.replace("torch.ops.aten.tanh.default", "torch.hub.load").encode()}, "'torch.hub.load'"),
    ):
        path = written(tmp_path / "model.pt2", program(replaced))
        with pytest.raises(UntrustedPickleError) as caught:
            capture(path, DEFAULTS)
        assert words in str(caught.value)
        assert "give --trust-pickle" in str(caught.value)
        assert not marker.exists()
    capture(written(tmp_path / "model.pt2", program({})), DEFAULTS)


@pytest.mark.parametrize("name", KINDS)
def test_damage_behind_the_structure_is_one_line(name: str, tmp_path: Path) -> None:
    """Bytes turned over all through the file, and files cut, give an error of ours or a model that still loads."""
    data = model_files()[name][1]
    options = CaptureOptions(model=NETWORK if "state" in name or name in {"checkpoint", "safetensors"} else None)
    path = tmp_path / "model"
    for at in np.linspace(0, len(data) - 1, 12, dtype=int):
        for damaged in (data[:at], data[:at] + bytes(b ^ 0x5A for b in data[at : at + 40]) + data[at + 40 :]):
            path.write_bytes(damaged)
            try:
                capture(path, options)
            except PtqError as error:
                assert "\n" not in str(error)  # noqa: PT017 - some of them load
                assert len(str(error)) < 700  # noqa: PT017


@pytest.mark.parametrize(
    "formula",
    [
        "__import__('os').system('true')",
        "exec('import os')",
        "eval('1')",
        "open('a')",
        "().__class__",
        "s0.__class__",
        "L['x'].size.__globals__",
        "torch.hub.load('a', 'b')",
        "torch.sym_max.__globals__",
        "[x for x in (1,)]",
        "lambda: 0",
        "(s0 := 3)",
        "S('__import__(0)')",
        "Symbol('exec(1)')",
        "f'{s0}'",
        "getattr(s0, 'a')",
        "s0(",
        "(" * 500,
    ],
)
def test_formulas_that_are_code(formula: str) -> None:
    assert not programs._is_formula(formula)


def test_formulas_of_real_programs_are_read(tmp_path: Path) -> None:
    """Sizes that are halved, rounded and compared leave formulas and guards of all sorts."""

    class Sizes(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = nn.functional.interpolate(nn.functional.avg_pool2d(x, 3, 2), scale_factor=1.5)
            return torch.cat([y, y[:, :, : y.shape[2] // 2 * 2]], 2) + x.shape[2] ** 0.5

    free = torch.export.Dim.DYNAMIC
    example = torch.ones(2, 3, 64, 32)
    exported = torch.export.export(Sizes(), (example,), dynamic_shapes=({0: free, 2: free, 3: free},))
    torch.export.save(exported, tmp_path / "sizes.pt2")
    with zipfile.ZipFile(tmp_path / "sizes.pt2") as archive:
        content = json.loads(archive.read("sizes/models/model.json"))
    assert content["guards_code"]
    assert "Float('1.5'" in json.dumps(content)
    loaded = programs.load_program(tmp_path / "sizes.pt2", trusted=False)
    torch.testing.assert_close(loaded.module()(example), Sizes()(example))
