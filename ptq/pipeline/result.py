"""What a run returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ptq.errors import ModelError
from ptq.model.save import loaded
from ptq.pipeline.written import Written
from ptq.report import Report

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True)
class Result:
    """A quantized model, as an ONNX file, and the report on it."""

    written: Written = field(repr=False)
    report: Report

    @property
    def content(self) -> bytes:
        """The bytes of the file.

        Raises:
            ModelError: they are in two, which one file does not hold; `save` them.

        """
        if self.written.data is not None:
            raise ModelError(
                "the model is larger than the 2 GB that one ONNX file holds; save it, it becomes two files"
            )
        return self.written.path.read_bytes()

    @property
    def model(self) -> ModelProto:
        """The quantized model, with all weights in memory."""
        return loaded(self.written.path)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the model as a file.

        Raises:
            OutputError: the file exists and may not be overwritten, or cannot be written.

        """
        self.written.copy(Path(path), overwrite=overwrite)
        return Path(path)
