"""Data of every kind, checked against the inputs of a model before anything runs."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from calibration.dataset import Dataset, fit
from calibration.images import ImageOptions
from calibration.sources import open_data
from calibration.spec import InputSpec
from ptq.errors import DataError, OptionError

IMAGE = [InputSpec("x", "float32", ("n", 3, 8, 8))]
TEXT = [InputSpec("ids", "int64", ("n", "s")), InputSpec("mask", "int64", ("n", "s"))]
RNG = np.random.default_rng(5)


def images(count: int = 6) -> np.ndarray:
    return RNG.normal(size=(count, 3, 8, 8)).astype(np.float32)


def seen(dataset: Dataset, size: int = 4) -> list[tuple[int, ...]]:
    return [next(iter(batch.feeds.values())).shape for batch in dataset.batches(size)]


def saved(folder: Path, kind: str, array: np.ndarray) -> Path:
    path = folder / f"data.{kind}"
    if kind == "npz":
        np.savez(path, x=array)
    elif kind == "npy":
        np.save(path, array)
    elif kind == "pt":
        torch.save({"x": torch.from_numpy(array)}, path)
    else:
        from safetensors.numpy import save_file

        save_file({"x": array}, path)
    return path


@pytest.mark.parametrize("kind", ["npz", "npy", "pt", "safetensors"])
def test_files_hold_what_was_saved(tmp_path: Path, kind: str) -> None:
    array = images()
    dataset = fit(open_data(saved(tmp_path, kind, array)), IMAGE)
    assert dataset.samples == 6
    assert seen(dataset) == [(4, 3, 8, 8), (2, 3, 8, 8)]
    together = np.concatenate([batch.feeds["x"] for batch in dataset.batches(4)])
    np.testing.assert_array_equal(together, array)


@pytest.mark.parametrize("kind", ["npz", "npy"])
def test_the_byte_order_of_another_machine_is_that_of_this_one_when_read(tmp_path: Path, kind: str) -> None:
    array = images()
    swapped = fit(open_data(saved(tmp_path, kind, array.astype(array.dtype.newbyteorder()))), IMAGE)
    (batch,) = swapped.batches(6)
    assert batch.feeds["x"].dtype.isnative
    np.testing.assert_array_equal(batch.feeds["x"], array)
    assert swapped.fingerprint() == fit(open_data({"x": array}), IMAGE).fingerprint()


@pytest.mark.parametrize("kind", ["npz", "npy", "pt", "safetensors"])
def test_the_kind_is_found_by_looking_inside(tmp_path: Path, kind: str) -> None:
    path = saved(tmp_path, kind, images()).rename(tmp_path / "data.bin")
    assert fit(open_data(path), IMAGE).samples == 6


@pytest.mark.parametrize("kind", ["npz", "npy", "pt", "safetensors"])
@pytest.mark.parametrize("keep", [0, 3, 40, 0.5])
def test_truncated_files_are_one_line(tmp_path: Path, kind: str, keep: float) -> None:
    path = saved(tmp_path, kind, images())
    content = path.read_bytes()
    path.write_bytes(content[: int(keep if keep > 1 else keep * len(content))])
    with pytest.raises(DataError) as error:
        fit(open_data(path), IMAGE)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


class Bomb:
    """Would run code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, ...]:
        return sys.exit, (99,)


def test_data_never_run_code(tmp_path: Path) -> None:
    objects = np.empty(2, object)
    objects[:] = [Bomb(), Bomb()]
    np.savez(tmp_path / "a.npz", x=objects)
    with pytest.raises(DataError, match="Python objects"):
        open_data(tmp_path / "a.npz")
    torch.save({"x": Bomb()}, tmp_path / "a.pt")
    with pytest.raises(DataError, match="plain tensors"):
        open_data(tmp_path / "a.pt")


@pytest.mark.parametrize(
    "spec", ["missing.npz", "no_such_module:batches", "os:no_such_name", "os:sep", 7, iter([np.ones(3)])]
)
def test_what_is_no_data(spec: object) -> None:
    with pytest.raises(DataError):
        open_data(spec)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("1 / 0", "cannot be imported: ZeroDivisionError: division by zero .feeds.py, line 1."),
        ("def made(argument): ...", "fails: TypeError: .*missing 1 required .*called without arguments"),
        ("def made(): return 7", "fails: TypeError: 'int' object is not iterable"),
        ("def made():\n    yield {'x': images}", "fails: NameError: .*images.* .feeds.py, line 2."),
    ],
)
def test_what_fails_in_code_of_the_user_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, words: str
) -> None:
    (tmp_path / "feeds.py").write_text(body)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "feeds", raising=False)
    with pytest.raises(DataError, match=f"^--data feeds:made {words}"):
        fit(open_data("feeds:made"), IMAGE)


def test_memory_is_data_too() -> None:
    array = images()
    for spec in ({"x": array}, array, torch.from_numpy(array), [{"x": array[:2]}, {"x": array[2:]}], lambda: [array]):
        assert sum(shape[0] for shape in seen(fit(open_data(spec), IMAGE))) == 6


def test_a_stream_is_walked_anew_each_time() -> None:
    walks = []

    def batches() -> Iterator[dict[str, np.ndarray]]:
        walks.append(0)
        for _ in range(3):
            yield {"x": images(5)}

    dataset = fit(open_data(batches), IMAGE)
    assert dataset.samples is None
    assert len(seen(dataset)) == 6
    assert seen(dataset.take(7)) == [(4, 3, 8, 8), (1, 3, 8, 8), (2, 3, 8, 8)]
    assert len(walks) == 3


def test_lengths_may_differ_between_batches(tmp_path: Path) -> None:
    lengths = (5, 9, 2)
    arrays = {f"{name}/{k}": np.ones(s, np.int64) for name in ("ids", "mask") for k, s in enumerate(lengths)}
    np.savez(tmp_path / "ragged.npz", **arrays)
    assert seen(fit(open_data(tmp_path / "ragged.npz"), TEXT)) == [(1, s) for s in lengths]
    del arrays["mask/1"]
    np.savez(tmp_path / "hole.npz", **arrays)
    with pytest.raises(DataError, match="mask/1"):
        seen(fit(open_data(tmp_path / "hole.npz"), TEXT))


def test_a_fixed_batch_is_kept_whole() -> None:
    fixed = [InputSpec("x", "float32", (4, 3, 8, 8))]
    assert seen(fit(open_data({"x": images(10)}), fixed), 3) == [(4, 3, 8, 8)] * 2
    with pytest.raises(DataError, match="batch of 4"):
        fit(open_data({"x": images(3)}), fixed)


def test_labels_go_with_the_samples() -> None:
    labels = np.arange(6)
    dataset = fit(open_data({"x": images(), "labels": labels}), IMAGE)
    assert dataset.labels.shape == (1,)
    assert np.concatenate([batch.labels for batch in dataset.batches(4) if batch.labels is not None]).tolist() == [
        *range(6)
    ]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"y": images()}, ["'x'", "'y'", "rename"]),
        ({"x": images(), "z": images()}, ["no input 'z'", "x"]),
        ({"x": images()[0]}, ["rank 4", "float32[3,8,8]"]),
        ({"x": images().transpose(0, 2, 3, 1)}, ["float32[6,8,8,3]", "transpose"]),
        ({"x": np.zeros((2, 3, 9, 9), np.float32)}, ["float32[2,3,9,9]", "resize"]),
        ({"x": np.zeros((2, 3, 8, 8), np.uint8)}, ["uint8", "float32", "astype"]),
        ({"x": np.zeros((2, 3, 8, 8), np.complex64)}, ["complex64"]),
        ({"x": np.where(np.arange(6)[:, None, None, None] == 4, np.nan, images())}, ["sample 4", "NaN"]),
        ({"x": images(), "labels": np.zeros((6, 2), np.complex64)}, ["labels"]),
        ({"x": images(), "labels": np.zeros(5, np.int64)}, ["5 of 'labels'", "6 of 'x'"]),
        ({"x": images(0)}, ["no samples"]),
    ],
)
def test_what_does_not_fit_shows_both_sides(arrays: dict[str, np.ndarray], words: list[str]) -> None:
    with pytest.raises(DataError) as error:
        fit(open_data(arrays, role="--eval"), IMAGE)
    assert "\n" not in str(error.value)
    for word in ("--eval", *words):
        assert word in str(error.value)


def test_free_dimensions_of_one_name_agree() -> None:
    with pytest.raises(DataError, match="make them equal"):
        fit(open_data({"ids": np.ones((2, 5), np.int64), "mask": np.ones((2, 6), np.int64)}), TEXT)


def test_numbers_are_only_converted_where_nothing_is_lost() -> None:
    assert fit(open_data({"x": images().astype(np.float64)}), IMAGE).samples == 6
    narrow = {"ids": np.ones((2, 5), np.int32), "mask": np.ones((2, 5), np.int32)}
    assert next(fit(open_data(narrow), TEXT).batches(2)).feeds["ids"].dtype == np.int64


def test_a_later_batch_of_a_stream_is_checked_too() -> None:
    dataset = fit(open_data([{"x": images()}, {"x": images()[:, :2]}]), IMAGE)
    with pytest.raises(DataError, match="resize"):
        seen(dataset)


def test_the_fingerprint_is_of_the_numbers() -> None:
    array = images()
    one, two = ({"x": each} for each in (array, np.where(np.arange(array.size).reshape(array.shape) == 9, 0, array)))
    prints = [fit(open_data(each), IMAGE).fingerprint() for each in (one, dict(one), two)]
    assert prints[0] == prints[1]
    assert prints[1] != prints[2]


OPTIONS = ImageOptions(8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))


def test_a_folder_of_images(tmp_path: Path) -> None:
    for label, mode in (("cat", "RGB"), ("dog", "L"), ("owl", "RGBA")):
        (tmp_path / label).mkdir()
        Image.new(mode, (20, 12), 255 if mode == "L" else "white").save(tmp_path / label / "a.png")
    (tmp_path / "notes.txt").write_text("no image")
    dataset = fit(open_data(tmp_path, OPTIONS), IMAGE)
    batches = list(dataset.batches(4))
    assert [batch.feeds["x"].shape for batch in batches] == [(1, 3, 8, 8)] * 3
    assert [int(batch.labels[0]) for batch in batches if batch.labels is not None] == [0, 1, 2]
    np.testing.assert_allclose(batches[0].feeds["x"], 1.0)


def test_a_grey_image_of_16_bits_is_as_bright_as_one_of_8(tmp_path: Path) -> None:
    grey = np.arange(0, 256, 4, dtype=np.uint8).reshape(8, 8)
    for number, pixels in enumerate((grey, grey.astype(np.uint16) * 257)):
        Image.fromarray(pixels).save(tmp_path / f"{number}.png")
    first, second = fit(open_data(tmp_path, OPTIONS), IMAGE).batches(1)
    np.testing.assert_array_equal(first.feeds["x"], second.feeds["x"])


def test_folders_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="--image-size"):
        open_data(tmp_path)
    with pytest.raises(DataError, match="holds no images"):
        fit(open_data(tmp_path, OPTIONS), IMAGE)
    (tmp_path / "broken.png").write_bytes(b"\x89PNG and no more")
    with pytest.raises(DataError, match=r"broken\.png"):
        fit(open_data(tmp_path, OPTIONS), IMAGE)


@pytest.mark.parametrize(
    "wrong", [(0, (0.5,) * 3, (0.5,) * 3), (8, (0.5,), (0.5,) * 3), (8, (0.5,) * 3, (0.5, 0.0, 0.5))]
)
def test_image_options_that_make_no_sense(wrong: tuple[Any, ...]) -> None:
    with pytest.raises(DataError, match="give"):
        ImageOptions(*wrong)


@pytest.mark.parametrize(
    "text", ["", "x:floaty", "x:03", "x:U99999999999999", "x:float32[0]", "x:float32[1,-2]", "x:float32[1", "[3]"]
)
def test_specs_that_make_no_sense(text: str) -> None:
    with pytest.raises(OptionError, match="--input"):
        InputSpec.parse(text)


def test_a_spec_reads_what_it_writes() -> None:
    for text in ("x:float32[1,3,224,224]", "ids:int64[batch,?]", "x:float32"):
        assert str(InputSpec.parse(text)) == text
