"""Steps before the method look at data and layers in several processes, and scale as in one."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from small_folder import Folder
from step_networks import NETWORKS, feeds
from test_distributed import alike

NOTED = """
import os
from pathlib import Path
import numpy as np
from ptq.steps import awq

best = awq._best

def noted(*given):
    with (Path(__file__).parent / f"of_{os.environ.get('RANK', 'one')}").open("a") as file:
        print(given[-1], file=file)
    return best(*given)

awq._best = noted

def batches():
    x = np.load(Path(__file__).parent / "x.npy")
    for start in range(0, len(x), 3):
        yield x[start : start + 3]
"""


@pytest.mark.slow
@pytest.mark.parametrize("options", [("awq", "--activations", "none"), ("smoothquant",)], ids=["awq", "smoothquant"])
def test_two_ranks_scale_as_one(folder: Folder, options: tuple[str, ...]) -> None:
    proto = NETWORKS["tokens"]
    onnx.save(proto, folder.model)
    (x,) = feeds(proto).values()
    x = np.concatenate([x * np.float32(k) for k in (1, -0.5, 2, 0.1)])
    x[..., :2] *= 30
    np.save(folder.path / "x.npy", x)
    (folder.path / "noted.py").write_text(NOTED)
    words = ("--method", "rtn", "--weights", "int4", "--step", *options)
    alike(2, 2, folder.path, folder.model, "--data", "noted:batches", *words)
    if "awq" in options:
        everything, *parts = (sorted((folder.path / f"of_{rank}").read_text().split()) for rank in ("one", 0, 1))
        assert all(parts)
        assert sorted([*parts[0], *parts[1]]) == everything
