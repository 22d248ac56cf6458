"""Run graphs in stock ONNX Runtime: the only place that opens a session."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from ptq.errors import ModelError
from ptq.model import limits
from ptq.model.streamed import Streamed

_QUIET = 4
_CPU, _CUDA = "cpu", "CUDAExecutionProvider"
_HANDED = frozenset({ir.DataType.FLOAT, ir.DataType.INT8, ir.DataType.UINT8})
_LEAST_HANDED_BYTES = 1 << 12
"""Small ones may be shapes, which ONNX Runtime has to see in the graph."""

_NUMBERS = re.compile(r"tensor\((?!string\b)")
_CODE = re.compile(r"^\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from .*? failed: ?)?")
_PLACE = re.compile(r"/onnxruntime_src/\S+:\d+ ")


def runs_on(device: str) -> bool:
    """Whether this ONNX Runtime runs graphs on a device, such as `cuda:0`."""
    return device == _CPU or _CUDA in ort.get_available_providers()


class Session:
    """A loaded graph on the CPU, one thread by default, with spinning off so that it is fair to neighbours.

    `in_order` runs the nodes by when the optimizers made them instead of from each output back to the inputs. `profile`
    begins the name of a file of the times of all nodes.
    """

    def __init__(
        self,
        model: ir.Model | bytes | Path,
        *,
        threads: int = 1,
        in_order: bool = False,
        optimize: bool = True,
        optimized_path: Path | None = None,
        profile: Path | None = None,
        device: str = _CPU,
    ) -> None:
        providers: list[Any] = ["CPUExecutionProvider"]
        if device != _CPU:
            providers.insert(0, (_CUDA, {"device_id": device.partition(":")[2]}))
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = _QUIET
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        if in_order:
            options.execution_order = ort.ExecutionOrder.PRIORITY_BASED
        levels = ort.GraphOptimizationLevel
        options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimize else levels.ORT_DISABLE_ALL
        if optimized_path is not None:
            options.optimized_model_filepath = str(optimized_path)
            # beside it, so that the graph can be read without its weights and may exceed 2 GB
            options.add_session_config_entry(
                "session.optimized_model_external_initializers_file_name", f"{optimized_path.name}.data"
            )
        if profile is not None:
            options.enable_profiling = True
            options.profile_file_prefix = str(profile)
        source = str(model) if isinstance(model, Path) else model
        if isinstance(source, ir.Model):
            source, self._held = _handed_over(source, options)
        try:
            self._session = ort.InferenceSession(source, options, providers=providers)
            inputs = {value.name: value.shape for value in self._session.get_inputs()}
            outputs = {value.name: value.type for value in self._session.get_outputs()}
        except Exception as error:  # ONNX Runtime's errors share no base class; names may be no text
            raise ModelError(f"ONNX Runtime {ort.__version__} does not load the graph: {_line(error)}") from error
        self._limited = limits.has_loops(Path(source) if isinstance(source, str) else source)
        self.inputs = tuple(inputs)
        self.outputs = tuple(name for name, kind in outputs.items() if _NUMBERS.match(kind))
        """Those that are tensors of numbers; others are nothing to compare."""
        if not self.outputs:
            raise ModelError("no output of the graph is a tensor of numbers, to tell what it computes; add one")
        self.batch = _batch([*inputs.values()])
        """The size of the first axis when every batch must have it, else None."""

    def end_profiling(self) -> Path:
        """Stop the profile that was asked for; the file with its events."""
        return Path(self._session.end_profiling())

    def run(self, feeds: Mapping[str, np.ndarray], outputs: Sequence[str] | None = None) -> list[np.ndarray]:
        """The outputs for one batch.

        Raises:
            ModelError: ONNX Runtime cannot run the graph on these feeds, or goes on in a loop for too long.

        """
        try:
            with limits.limited() if self._limited else nullcontext() as options:
                result: list[np.ndarray] = self._session.run(list(outputs or self.outputs), dict(feeds), options)
        except ModelError:
            raise
        except Exception as error:
            raise ModelError(f"ONNX Runtime {ort.__version__} fails to run the graph: {_line(error)}") from error
        return result


def _batch(shapes: Sequence[Sequence[int | str | None]]) -> int | None:
    return next((shape[0] for shape in shapes if shape and isinstance(shape[0], int)), None)


def _handed_over(model: ir.Model, options: ort.SessionOptions) -> tuple[bytes, list[np.ndarray]]:
    """A graph without its large weights, which the options hand over as they are; they must be kept as long as it.

    A graph with them would be written and read for each session, and could not exceed 2 GB.
    """
    bare = model.clone()
    arrays: dict[str, np.ndarray] = {}
    for name, value in bare.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and tensor.dtype in _HANDED and tensor.nbytes >= _LEAST_HANDED_BYTES:
            arrays[name] = np.ascontiguousarray(tensor.numpy())
            shape = ir.Shape(tensor.shape.numpy())
            value.const_value = ir.ExternalTensor("memory", 0, tensor.nbytes, tensor.dtype, shape=shape, name=name)
        elif isinstance(tensor, Streamed):
            value.const_value = tensor.loaded()
    if arrays:
        options.add_external_initializers(list(arrays), [ort.OrtValue.ortvalue_from_numpy(a) for a in arrays.values()])
    content: bytes = ir.to_proto(bare).SerializeToString()
    return content, list(arrays.values())


def _line(error: Exception) -> str:
    """What ONNX Runtime says, without the lines of its sources that it says it in."""
    text = _CODE.sub("", " ".join(str(error).split()))
    place = _PLACE.search(text)
    if place is not None:  # the function that is named behind it ends with the parenthesis that closes
        depth, end = 0, text.find("(", place.end())
        for end in range(max(end, place.end()), len(text)):  # noqa: B020
            depth += {"(": 1, ")": -1}.get(text[end], 0)
            if not depth:
                break
        text = text[: place.start()] + text[end + 1 :].lstrip()
    return text[:300]
