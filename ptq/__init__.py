"""Post-training quantization of PyTorch and ONNX models to ONNX files that stock ONNX Runtime runs fast."""

from __future__ import annotations


__version__ = "0.1.0"
