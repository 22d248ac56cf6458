"""Of data that several share, each reads its own batches only, and all have the numbers that they have in the whole."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from calibration import images
from calibration.batch import Batch, Share
from calibration.dataset import Dataset, fit
from calibration.images import ImageOptions
from calibration.parts import halves
from calibration.sources import Source, open_data
from calibration.spec import InputSpec
from ptq.errors import DataError

X = [InputSpec("x", "float32", ("n", 3, 8, 8))]
KINDS = ["npy", "npz", "compressed", "scattered", "safetensors", "ragged", "memory", "stream", "images"]
OPTIONS = ImageOptions(8, (0.5,) * 3, (0.5,) * 3)


def data(kind: str, folder: Path, count: int = 11) -> Source:
    """Samples in a source of each kind; all but those of files without names have labels."""
    x = np.random.default_rng(count).normal(size=(count, 3, 8, 8)).astype(np.float32)
    arrays, path = {"x": x, "labels": np.arange(count)}, folder / f"data.{kind}"
    if kind == "memory":
        return open_data(arrays)
    if kind == "stream":
        cuts = [0, 3, 4, 9, count]
        return open_data([{name: a[i:j] for name, a in arrays.items()} for i, j in pairwise(cuts)])
    if kind == "images":
        return open_data(photographs(folder, count), OPTIONS)
    if kind == "safetensors":
        from safetensors.numpy import save_file

        save_file(arrays, path)
        return open_data(path)
    with path.open("wb") as file:
        if kind == "npy":
            np.save(file, x)
        elif kind == "ragged":
            np.savez(file, **{f"x/{k}": each for k, each in enumerate(x)}, labels=arrays["labels"])
        elif kind == "compressed":
            np.savez_compressed(file, **arrays)
        else:
            np.savez(file, **arrays | ({"x": np.asfortranarray(x)} if kind == "scattered" else {}))
    return open_data(path)


def photographs(folder: Path, count: int) -> Path:
    for k in range(count):
        (folder / f"photographs/{k % 2}").mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(k).integers(0, 256, (9, 12, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"photographs/{k % 2}/{k:03}.png")
    return folder / "photographs"


def alike(one: Batch, other: Batch) -> bool:
    assert (one.labels is None) is (other.labels is None)
    labels = one.labels is None or other.labels is None or one.labels.tolist() == other.labels.tolist()
    return labels and np.array_equal(one.feeds["x"], other.feeds["x"]) and one.start == other.start


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("half", "limit", "fixed"), [(False, None, None), (True, None, None), (False, 7, 2)])
def test_all_shares_are_all_batches(
    tmp_path: Path, kind: str, half: bool, limit: int | None, fixed: int | None
) -> None:
    source = data(kind, tmp_path)
    one_by_one = kind in ("ragged", "images")
    shape = (1 if one_by_one else fixed, 3, 8, 8) if fixed else ("n", 3, 8, 8)
    dataset = fit(halves(source)[1] if half else source, [InputSpec("x", "float32", shape)])
    dataset = dataset if limit is None else dataset.take(limit)
    whole = list(dataset.batches(2))
    starts = np.cumsum([0, *(batch.size for batch in whole)])
    assert [batch.start for batch in whole] == starts[:-1].tolist()
    for of in (2, 3, 20):
        shares = [list(dataset.batches(2, Share(place, of))) for place in range(of)]
        assert sum(map(len, shares)) == len(whole)
        assert all(alike(batch, shares[k % of][k // of]) for k, batch in enumerate(whole))


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of images that are decoded."""
    found: list[str] = []
    load = images._load

    def noted(path: Path, options: ImageOptions) -> np.ndarray:
        found.append(path.stem)
        return load(path, options)

    monkeypatch.setattr(images, "_load", noted)
    return found


def test_of_a_folder_no_images_are_decoded_but_ones_own(tmp_path: Path, decoded: list[str]) -> None:
    dataset = fit(open_data(photographs(tmp_path, 7), OPTIONS), X)
    decoded.clear()
    assert [batch.start for batch in dataset.batches(4, Share(1, 3))] == [1, 4]
    assert decoded == ["002", "001"]
    decoded.clear()
    dataset.fingerprint()
    assert not decoded


def test_the_fingerprint_of_images_is_that_of_their_files(tmp_path: Path) -> None:
    def fingerprint(options: ImageOptions = OPTIONS, limit: int = 9) -> str:
        return fit(open_data(tmp_path / "photographs", options), X).take(limit).fingerprint()

    first = photographs(tmp_path, 4) / "0" / "000.png"
    found = [fingerprint(), fingerprint(limit=2), fingerprint(ImageOptions(8, (0.4,) * 3, (0.5,) * 3))]
    content = first.read_bytes()
    first.write_bytes((first.parent / "002.png").read_bytes())
    found.append(fingerprint())
    first.write_bytes(content)
    first.rename(tmp_path / "photographs" / "1" / "000.png")
    found.append(fingerprint())
    assert len({*found}) == 5
    (tmp_path / "photographs" / "1" / "000.png").rename(first)
    assert fingerprint() == found[0]


def test_a_stream_is_walked_once_for_its_fingerprint() -> None:
    walks = []

    def batches() -> Iterator[np.ndarray]:
        walks.append(0)
        yield np.ones((2, 3, 8, 8), np.float32)

    dataset = Dataset(open_data(batches), tuple(X))
    assert dataset.fingerprint() == dataset.fingerprint()
    assert len(walks) == 1


@pytest.mark.parametrize("kind", ["stream", "images"])
def test_what_is_wrong_is_found_by_whose_it_is(tmp_path: Path, kind: str) -> None:
    if kind == "images":
        (photographs(tmp_path, 6) / "1" / "003.png").write_bytes(b"\x89PNG and no more")
        source, said = open_data(tmp_path / "photographs", OPTIONS), r"003\.png cannot be read"
    else:
        x = np.zeros((6, 3, 8, 8), np.float32)
        x[4] = np.nan
        source, said = open_data([{"x": x}]), "'x' has NaN or Inf in sample 4"
    dataset = Dataset(source, tuple(X))
    assert len(list(dataset.batches(1, Share(1, 2)))) == 3
    with pytest.raises(DataError, match=said):
        list(dataset.batches(1, Share(0, 2)))


def test_batches_without_samples_are_refused_by_all() -> None:
    def batches() -> Iterator[np.ndarray]:
        yield from (np.ones((2, 3, 8, 8), np.float32), np.ones((0, 3, 8, 8), np.float32))

    dataset = fit(open_data(batches), X)
    for place in range(2):
        with pytest.raises(DataError, match="there are no samples"):
            list(dataset.batches(4, Share(place, 2)))


def test_a_share_may_be_empty_where_there_is_a_batch(tmp_path: Path) -> None:
    dataset = fit(data("npz", tmp_path, 3), X)
    assert not list(dataset.batches(4, Share(1, 2)))
    with pytest.raises(DataError, match="not even one sample"):
        list(Dataset(open_data(lambda: iter(())), tuple(X)).batches(4, Share(1, 2)))
