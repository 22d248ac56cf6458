"""Every other sample of data of each kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from calibration.dataset import fit
from calibration.parts import halves
from calibration.sources import open_data
from calibration.spec import InputSpec

X = [InputSpec("x", "float32", ("n", 2))]


def of(data: Any) -> tuple[list[float], list[float]]:
    ones, others = (fit(part, X) for part in halves(open_data(data)))
    first, second = (np.concatenate([batch.feeds["x"] for batch in each.batches(3)])[:, 0] for each in (ones, others))
    return first.tolist(), second.tolist()


@pytest.mark.parametrize("sizes", [[7], [1] * 7, [2, 2, 3], [1, 4, 2], [3, 4]])
@pytest.mark.parametrize("named", [True, False])
def test_every_other_sample(sizes: list[int], named: bool) -> None:
    numbers = np.repeat(np.arange(7, dtype=np.float32)[:, None], 2, 1)
    batches = np.split(numbers, np.cumsum(sizes)[:-1])
    made = [{"x": batch} if named else (batch,) for batch in batches]
    assert of(made) == ([0, 2, 4, 6], [1, 3, 5])
    assert of({"x": numbers}) == of(made)


def test_halves_of_files_have_their_labels(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", x=np.ones((5, 2), np.float32), labels=np.arange(5))
    ones, others = (fit(part, X) for part in halves(open_data(tmp_path / "a.npz")))
    assert (ones.samples, others.samples) == (3, 2)
    labels = [np.concatenate([b.labels for b in part.batches(2) if b.labels is not None]) for part in (ones, others)]
    assert [each.tolist() for each in labels] == [[0, 2, 4], [1, 3]]
    assert ones.fingerprint() != others.fingerprint()
