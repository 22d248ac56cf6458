"""From quantized weights and activation ranges to ONNX nodes that stock ONNX Runtime runs fast."""

from __future__ import annotations

from ptq.lowering.activations import Activations, find_activations, observable
from ptq.lowering.execution import Execution, execution
from ptq.lowering.graph import lower
from ptq.lowering.grids import ActivationGrid, activation_grids
from ptq.lowering.sites import SiteLowering
from ptq.lowering.target import CPU, TARGETS, Checks, Pair, Target
from ptq.lowering.weights import stored_bytes, stored_weight

__all__ = [
    "CPU",
    "TARGETS",
    "ActivationGrid",
    "Activations",
    "Checks",
    "Execution",
    "Pair",
    "SiteLowering",
    "Target",
    "activation_grids",
    "execution",
    "find_activations",
    "lower",
    "observable",
    "stored_bytes",
    "stored_weight",
]
