"""Post-training quantization of PyTorch and ONNX models to ONNX files that stock ONNX Runtime runs fast."""

from __future__ import annotations

import importlib
from typing import Any

__version__ = "0.1.0"
