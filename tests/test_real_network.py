"""The digits network of the demo, trained on real digits: accuracy at few bits, and greedy points against radix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import ptq
from ptq.pipeline.result import Result

DIGITS = Path(__file__).parents[1] / "examples" / "digits"
pytestmark = [pytest.mark.slow, pytest.mark.measures_memory, pytest.mark.measures_latency]


def quantized(**options: Any) -> Result:
    return ptq.quantize(DIGITS / "model.pt", DIGITS / "calib.npz", eval_data=DIGITS / "eval.npz", **options)


def drop(result: Result) -> float:
    found = result.report.accuracy
    assert found is not None
    score = found.score("top-1")
    assert score is not None
    assert score.loss is not None
    return score.loss


@pytest.mark.parametrize(
    ("options", "most"),
    [
        ({"bits": 4.1}, 0.005),
        ({"bits": 4.1, "portable": True}, 0.01),
        ({"weights": "int3", "bits": 3.2}, 0.01),
        ({"weights": "int2", "bits": 2.6}, 0.02),
        ({"tolerance": 1e-3}, 0.005),
        ({"bits": 4.3, "per": "layer"}, 0.01),
        ({"method": "mixed", "bits": 3.25}, 0.01),
        ({"method": "mixed", "bits": 3.25, "worth": "ompq"}, 0.01),
    ],
)
def test_accuracy_at_few_bits(options: dict[str, Any], most: float) -> None:
    result = quantized(**options)
    assert drop(result) <= most
    assert result.report.bits_per_weight <= options.get("bits", 8.5) + 0.01
    assert all(layer.integer for layer in result.report.layers)


def test_greedy_points_lose_more_than_radix_points() -> None:
    greedy, radix = (quantized(search=search, points=2).report.accuracy for search in ("greedy", "radix"))
    assert greedy is not None
    assert radix is not None
    assert greedy.sqnr_db is not None
    assert radix.sqnr_db is not None
    assert 15 < greedy.sqnr_db < radix.sqnr_db
