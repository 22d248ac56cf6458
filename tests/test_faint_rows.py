"""Channels next to nothing beside their bias, as pruning and folded normalization leave them, keep that bias."""

from __future__ import annotations

from typing import Any

import graphs
import numpy as np
import pytest

import ptq
from ptq.recipe import METHODS

SEARCHES: list[dict[str, Any]] = [
    {"search": "greedy", "points": 2},
    {"search": "greedy-grid", "points": 1},
    {"search": "greedy", "points": 4, "weights": "int2"},
]
ALL = [{"method": name} for name in METHODS] + [{"method": "multipoint", **search} for search in SEARCHES]


@pytest.mark.parametrize("options", ALL, ids=lambda options: " ".join(map(str, options.values())))
def test_biases_of_faint_rows(options: dict[str, Any]) -> None:
    rng = np.random.default_rng(0)
    arrays = {"w": rng.standard_normal((8, 3, 3, 3)), "b": rng.standard_normal(8), "v": rng.standard_normal((4, 8))}
    arrays["w"][1] *= 1e-11
    arrays["w"][2] = 0
    arrays["b"][1:3] = 5, -4
    model = graphs.with_arrays(
        "c = Conv (x, w, b) a = Relu (c) p = GlobalAveragePool (a) f = Flatten (p) y = Gemm <transB = 1> (f, v)",
        "float[N, 3, 9, 9] x",
        "float[N, 4] y",
        {name: array.astype(np.float32) for name, array in arrays.items()},
    )
    images = rng.standard_normal((16, 3, 9, 9)).astype(np.float32)
    said = {"weights": "int4", "activations": "uint8", **options}
    accuracy = ptq.quantize(model, images, **said).report.accuracy
    assert accuracy is not None
    assert accuracy.sqnr_db is not None
    assert accuracy.sqnr_db > 15
