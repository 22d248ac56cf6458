"""Arrays in files are read a few samples at a time and are the same as in memory."""

from __future__ import annotations

import hashlib
import os
import tracemalloc
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from calibration.dataset import Dataset, fit
from calibration.sources import open_data
from calibration.spec import InputSpec
from ptq.errors import DataError

KINDS = ["npz", "compressed", "safetensors"]
BOTH = [InputSpec("x", "float32", ("n", 3, 8, 8)), InputSpec("ids", "int64", ("n", "s"))]
WIDE = [InputSpec("x", "float32", ("n", 3, 64, 64))]


def numbers(count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(count)
    return {
        "x": rng.normal(size=(count, 3, 8, 8)),
        "ids": rng.integers(0, 9, (count, 5), dtype=np.int32),
        "labels": rng.integers(0, 10, count),
    }


def saved(folder: Path, kind: str, arrays: Mapping[str, np.ndarray]) -> Path:
    path = folder / f"data.{kind}"
    if kind == "safetensors":
        from safetensors.numpy import save_file

        save_file(dict(arrays), path)
        return path
    if kind == "npy":
        np.save(path, arrays["x"])
        return path
    with path.open("wb") as file:
        (np.savez if kind == "npz" else np.savez_compressed)(file, **arrays)
    return path


def together(dataset: Dataset, size: int) -> dict[str, np.ndarray]:
    batches = list(dataset.batches(size))
    found = {name: np.concatenate([batch.feeds[name] for batch in batches]) for name in batches[0].feeds}
    return found | {"labels": np.concatenate([batch.labels for batch in batches if batch.labels is not None])}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", [None, 70, 1000])
def test_a_file_is_what_memory_is(tmp_path: Path, kind: str, limit: int | None) -> None:
    arrays = numbers(150)
    memory, file = fit(open_data(arrays), BOTH), fit(open_data(saved(tmp_path, kind, arrays)), BOTH)
    if limit is not None:
        memory, file = memory.take(limit), file.take(limit)
    assert file.samples == memory.samples == min(limit or 150, 150)
    assert file.describe() == memory.describe()
    assert file.fingerprint() == memory.fingerprint()
    for size in (1, 7, 64):
        found = together(file, size)
        for name, array in together(memory, size).items():
            np.testing.assert_array_equal(found[name], array)
            np.testing.assert_array_equal(array, arrays[name][:limit].astype(array.dtype))


@pytest.mark.parametrize(("fixed", "whole"), [(None, 150), (4, 148)])
def test_the_fingerprint_is_of_chunks(fixed: int | None, whole: int) -> None:
    arrays = numbers(150)
    digest, step = hashlib.sha256(), fixed or 64
    for start in range(0, whole, step):
        for name, dtype in (("ids", "int64"), ("x", "float32"), ("labels", "int64")):
            part = arrays[name][start : min(start + step, whole)].astype(dtype)
            digest.update(f"{name}{part.dtype}{part.shape}".encode() + part.tobytes())
    inputs = [InputSpec(spec.name, spec.dtype, (fixed or "n", *(spec.shape or ())[1:])) for spec in BOTH]
    dataset = fit(open_data(arrays), inputs)
    assert dataset.fingerprint() == dataset.take(150).fingerprint() == digest.hexdigest()


def test_the_range_is_that_of_all_samples(tmp_path: Path) -> None:
    x = np.zeros((150, 3, 64, 64), np.float32)
    x[3], x[149, 2, 63, 63] = -1.25, 7.5
    said = fit(open_data(saved(tmp_path, "npz", {"x": x})), WIDE).describe()
    assert said == "150 samples 'x' float32[150,3,64,64], range -1.25..7.50"


@pytest.mark.parametrize("kind", [*KINDS, "npy"])
def test_a_number_that_is_none_is_found_in_its_sample(tmp_path: Path, kind: str) -> None:
    x = np.zeros((150, 3, 64, 64), np.float32)
    x[140, 0, 5, 5] = np.inf
    with pytest.raises(DataError, match="has NaN or Inf in sample 140; remove it"):
        fit(open_data(saved(tmp_path, kind, {"x": x})), WIDE)


@pytest.mark.parametrize("kind", [*KINDS, "npy"])
def test_memory_does_not_grow_with_samples(tmp_path: Path, kind: str) -> None:
    def peak(count: int) -> int:
        rng = np.random.default_rng(0)
        x = rng.normal(size=(count, 3, 64, 64)).astype(np.float32)
        path = saved(tmp_path, kind, {"x": x})
        del x
        tracemalloc.start()
        try:
            dataset = fit(open_data(path), WIDE)
            assert sum(batch.size for batch in dataset.batches(4)) == count
            assert len(dataset.fingerprint()) == 64
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(16)  # what is imported on the way
    few, many = peak(200), peak(600)
    assert many < few + (1 << 20)
    assert many < 5 * (4 << 20)


def test_ragged_samples_are_read_one_by_one(tmp_path: Path) -> None:
    def peak(count: int) -> int:
        arrays = {f"x/{k}": np.full((3, 64 + k % 2, 64), k, np.float32) for k in range(count)}
        path = saved(tmp_path, "npz", arrays | {"labels": np.arange(count)})
        tracemalloc.start()
        try:
            dataset = fit(open_data(path), [InputSpec("x", "float32", ("n", 3, "h", 64))])
            for k, batch in enumerate(dataset.batches(4)):
                assert batch.feeds["x"].min() == batch.feeds["x"].max() == k
                assert batch.labels is not None
                assert batch.labels.tolist() == [k]
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    peak(16)
    few, many = peak(50), peak(200)
    assert many < few + 150 * 4096


def test_samples_that_lie_scattered_are_put_in_order(tmp_path: Path) -> None:
    arrays = numbers(20)
    arrays["x"] = np.asfortranarray(arrays["x"])
    file = fit(open_data(saved(tmp_path, "npz", arrays)), BOTH)
    np.testing.assert_array_equal(together(file, 3)["x"], arrays["x"].astype(np.float32))


@pytest.mark.parametrize("kind", ["npz", "safetensors", "memory"])
def test_an_input_without_samples_goes_to_every_batch(tmp_path: Path, kind: str) -> None:
    arrays = {"x": np.ones((5, 2), np.float32), "t": np.array(0.5, np.float32)}
    inputs = [InputSpec("x", "float32", ("n", 2)), InputSpec("t", "float32", ())]
    dataset = fit(open_data(arrays if kind == "memory" else saved(tmp_path, kind, arrays)), inputs)
    assert [(batch.feeds["x"].shape, batch.feeds["t"].shape) for batch in dataset.batches(3)] == [
        ((3, 2), ()),
        ((2, 2), ()),
    ]


@pytest.mark.parametrize("kind", ["npz", "compressed"])
def test_a_byte_that_fell_over_is_one_line(tmp_path: Path, kind: str) -> None:
    path = saved(tmp_path, kind, {"x": np.random.default_rng(0).normal(size=(40, 3, 64, 64)).astype(np.float32)})
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"cannot be read: .*; save it again$"):
        fit(open_data(path), WIDE)


@pytest.mark.parametrize("kind", [*KINDS, "npy"])
def test_a_file_that_changes_meanwhile_is_refused(tmp_path: Path, kind: str) -> None:
    arrays = {"x": np.ones((5, 3, 64, 64), np.float32)}
    path = saved(tmp_path, kind, arrays)
    dataset = fit(open_data(path), WIDE)
    assert len(list(dataset.batches(5))) == 1
    state = path.stat()
    path.write_bytes(path.read_bytes())
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns + 1_000_000))
    with pytest.raises(DataError, match="was changed while it was in use"):
        next(dataset.batches(5))
    path.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        next(dataset.batches(5))


def test_a_type_that_numpy_has_not_is_one_line(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    save_file({"x": torch.ones(2, 3, dtype=torch.bfloat16)}, tmp_path / "a.safetensors")
    with pytest.raises(DataError, match="'x' is BF16, which numpy has not; save it as float32"):
        open_data(tmp_path / "a.safetensors")
