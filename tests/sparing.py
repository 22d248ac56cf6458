"""Less measuring, for tests that are not about it: what takes a part of a second of any run."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

Set = Callable[[Any, str, Any], object]
"""`setattr`, or what undoes it later."""


def spare_memory(put: Set) -> None:
    """Peaks are measured in processes of their own, a third of a second each."""
    for module in ("ptq.audit.audit", "ptq.pipeline.compare"):  # ptq.audit has a function of that name
        put(importlib.import_module(module), "peak_bytes", lambda *_: 1 << 20)


def spare_latency(put: Set) -> None:
    """Models are timed for a tenth of a second, so that the figure is steady."""
    timing = importlib.import_module("ptq.audit.timing")
    put(timing, "_ROUNDS", 3)
    put(timing, "_LEAST_ROUND_SECONDS", 0.001)


def spare_portability(put: Set) -> None:
    """What other processors answer is simulated for seconds."""
    for module in ("ptq.pipeline.describe", "ptq.pipeline.compare"):
        put(importlib.import_module(module), "portability", lambda *_: (None, ()))


def spare_prediction(put: Set) -> None:
    """More than one layer is rounded for a prediction."""
    put(importlib.import_module("ptq.pipeline.predict"), "_ENOUGH_SECONDS", 0.0)
