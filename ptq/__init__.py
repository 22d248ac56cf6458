"""Post-training quantization of PyTorch and ONNX models to ONNX files that stock ONNX Runtime runs fast."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ptq.pipeline.call import compare, diagnose, inspect, quantize, sweep
    from ptq.pipeline.result import Result

__version__ = "0.1.0"

__all__ = ["Result", "__version__", "compare", "diagnose", "inspect", "quantize", "sweep"]


def __getattr__(name: str) -> Any:
    """Import the pipeline, and with it torch and ONNX Runtime, only when it is used."""
    if name in __all__:
        from ptq.pipeline import call, result

        return result.Result if name == "Result" else getattr(call, name)
    raise AttributeError(f"module 'ptq' has no attribute {name!r}")
