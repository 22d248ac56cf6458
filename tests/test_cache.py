"""What is kept of runs: whole or not there, by all that it follows from, and no more of it than is allowed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
import torch
from command import Command
from small_folder import Folder

from ptq import formats
from ptq.cache import Store, held, opened
from ptq.cache.encoding import Encoder, decoded, fingerprint
from ptq.cache.locks import earliest
from ptq.errors import CacheError, OutputError
from ptq.formats.lloyd import LloydFormat
from ptq.ladder import Ladder
from ptq.qtensor import Blocks, Term


def ladder() -> Ladder:
    values = torch.tensor([[1, -2, 3], [0, 1, 2]], dtype=torch.int8)
    blocks = Blocks(2, torch.ones(2, 2), formats.get("steps4"))
    own = LloydFormat("lloyd4", 4, tuple(float(step) for step in range(-8, 8)))
    terms = (Term(values, torch.ones(2), formats.get("int4"), blocks=blocks), Term(values, torch.ones(2), own))
    return Ladder((terms[:1], terms), torch.rand(2, 2), torch.rand(2), base=1)


@pytest.mark.parametrize(
    "value", [None, True, 3, -0.0, float("inf"), "text", (1, [2.5, ()]), {"a": {3: (4,)}}, frozenset({1})]
)
def test_values_come_back(value: object) -> None:
    encoder = Encoder()
    found = decoded(json.loads(json.dumps(encoder.tree(value))), encoder.tensors)
    assert found == value
    assert type(found) is type(value)


def test_a_ladder_comes_back_to_the_bit(tmp_path: Path) -> None:
    made = ladder()
    store = Store(tmp_path, 0)
    path = store.keep("ladder", lambda: 1, lambda: made).path
    found = Store(tmp_path, 0).load(path)
    assert fingerprint(found) == fingerprint(made)
    assert found.rungs[1][0] is not None
    assert found.rungs[0][0].values.equal(made.rungs[0][0].values)
    assert found.rungs[1][1].format == made.rungs[1][1].format


@pytest.mark.parametrize("dtype", [torch.int8, torch.uint8])
@pytest.mark.parametrize(("spread", "part"), [(1, 4), (2, 4), (4, 4), (5, 2), (16, 2), (17, 1), (128, 1)])
def test_few_numbers_of_a_byte_take_less_of_the_disk(
    spread: int, part: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    """By the parts of a byte that they fit in; wherever they begin, and whatever their count leaves over."""
    draws, shape = torch.Generator().manual_seed(0), (7, 1429)
    for low in {torch.iinfo(dtype).min, -1 if dtype == torch.int8 else 3, torch.iinfo(dtype).max + 1 - spread}:
        made = torch.randint(max(low, torch.iinfo(dtype).min), low + spread, shape, generator=draws).to(dtype)
        made[0, 0], made[6, 1428] = low, low + spread - 1
        path = Store(tmp_path / str(low), 0).keep("codes", lambda: 1, lambda made=made: made).path
        found = Store(tmp_path / str(low), 0).load(path)
        assert found.dtype == dtype
        assert found.equal(made)
        assert path.stat().st_size < made.numel() / part + 1000


class Outside(Enum):
    HERE = 1


@dataclass
class Foreign:
    number: int


def test_nothing_of_others_is_made_from_a_file() -> None:
    for value in (Outside.HERE, Foreign(1)):
        encoder = Encoder()
        with pytest.raises(ValueError, match="no dataclass of this project"):
            decoded(encoder.tree(value), encoder.tensors)
    with pytest.raises(ValueError, match="no dataclass of this project"):
        decoded({"dataclass": ["ptq.cache.store:opened", {}]}, {})
    with pytest.raises(TypeError, match="no encoding"):
        Encoder().tree(object())


def test_a_fingerprint_is_of_every_bit() -> None:
    one = {"weight": torch.zeros(3), "points": 2}
    assert fingerprint(one) == fingerprint({"weight": torch.zeros(3), "points": 2})
    others = [
        {"weight": torch.zeros(3), "points": 3},
        {"weight": torch.tensor([0.0, -0.0, 0.0]), "points": 2},
        {"weight": torch.zeros(3, dtype=torch.int32), "points": 2},
        {"weight": torch.zeros(3, 1), "points": 2},
        {"weight": np.zeros(3, np.float32), "points": 2},
    ]
    assert len({fingerprint(each) for each in (one, *others)}) == 1 + len(others)


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    def never() -> object:
        raise AssertionError

    Store(tmp_path, 0).get("kind", lambda: "key", lambda: torch.arange(3))
    assert Store(tmp_path, 0).get("kind", lambda: "key", never).tolist() == [0, 1, 2]
    with pytest.raises(AssertionError):
        Store(tmp_path, 0).get("kind", lambda: "another", never)
    with pytest.raises(AssertionError):
        Store(tmp_path, 0).get("another", lambda: "key", never)


@pytest.mark.parametrize("damage", [lambda b: b[: len(b) // 2], lambda _: b"", lambda b: b"\0" * len(b)])
def test_what_is_damaged_is_made_again(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = Store(tmp_path, 0).keep("kind", lambda: 1, lambda: torch.ones(100)).path
    path.write_bytes(damage(path.read_bytes()))
    assert Store(tmp_path, 0).get("kind", lambda: 1, lambda: torch.zeros(2)).tolist() == [0, 0]


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    store = Store(tmp_path, 3000)
    paths = [store.keep("kind", lambda n=n: n, lambda: torch.zeros(250)).path for n in range(4)]  # type: ignore[misc]
    for age, path in enumerate(reversed(paths)):
        os.utime(path, (1e9 - age, 1e9 - age))
    Store(tmp_path, 3000).keep("kind", lambda: 0, lambda: None)  # used again
    store.trim()
    assert [path.exists() for path in paths] == [True, False, False, True]
    store.trim(0)
    assert not any(path.exists() for path in paths)


def test_what_a_run_that_is_going_on_may_need_stays(tmp_path: Path) -> None:
    store = Store(tmp_path, 0)
    old = store.keep("kind", lambda: 1, lambda: 1).path
    os.utime(old, (1e9, 1e9))
    with held(tmp_path / "model.onnx", tmp_path):
        new = store.keep("kind", lambda: 2, lambda: 2).path
        store.trim()
        assert not old.exists()
        assert new.exists()
    store.trim()
    assert not new.exists()


def test_an_output_has_one_run(tmp_path: Path) -> None:
    with held(tmp_path / "model.onnx", tmp_path), held(tmp_path / "another.onnx", tmp_path):
        said = f"another run, process {os.getpid()}, is writing .*model.onnx; wait"
        with pytest.raises(OutputError, match=said), held(tmp_path / "model.onnx", tmp_path):
            pass
    with held(tmp_path / "model.onnx", tmp_path):
        pass


def test_a_run_may_end_while_another_looks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with held(None, tmp_path):
        (path,) = (tmp_path / "runs").iterdir()
        began = path.stat().st_mtime

        def flock(*_: object) -> None:
            path.unlink()
            raise BlockingIOError

        monkeypatch.setattr("fcntl.flock", flock)
        assert earliest(tmp_path) == began


def test_a_folder_that_cannot_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PTQ_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(
        CacheError, match=r"cannot be written \(Not a directory\); free space, run ptq cache clear, or name"
    ):
        opened()
    monkeypatch.setenv("PTQ_CACHE_GB", "much")
    with pytest.raises(CacheError, match="PTQ_CACHE_GB=much is no number of gigabytes"):
        opened()


def test_the_command_lists_and_clears(folder: Folder, ptq: Command, cache: Path) -> None:
    arguments = ("quantize", folder.model, "--method", "rtn", "--weights", "int4")
    assert ptq(*arguments, "-o", cache / "one.onnx").code == 0
    told = ptq("cache").out
    assert str(folder.model) in told
    found = json.loads(ptq("cache", "--format", "json").out)
    assert found["bytes"] == sum(path.stat().st_size for path in cache.glob("*/*.safetensors")) > 0
    assert found["models"][0]["kinds"]["layer"] > 1
    assert f"removed {found['bytes'] / 1e6:.1f} MB" in ptq("cache", "clear").out
    assert not list(cache.glob("*/*.safetensors"))


def test_a_second_run_finds_its_layers_and_writes_the_same(
    folder: Folder, ptq: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ("quantize", folder.model, "--method", "multipoint", "--weights", "int4")
    assert ptq(*arguments, "-o", tmp_path / "one.onnx").code == 0
    monkeypatch.setattr("ptq.pipeline.solved.Question.answer", lambda _: pytest.fail("solved again"))
    assert ptq(*arguments, "-o", tmp_path / "two.onnx").code == 0
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()
