"""What a run returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ptq.model.save import parsed
from ptq.pipeline.output import write_atomically
from ptq.report import Report

if TYPE_CHECKING:
    from onnx import ModelProto


@dataclass(frozen=True)
class Result:
    """A quantized model, as the bytes of an ONNX file, and the report on it."""

    content: bytes = field(repr=False)
    report: Report

    @property
    def model(self) -> ModelProto:
        """The quantized model."""
        return parsed(self.content)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the model as a file.

        Raises:
            OutputError: the file exists and may not be overwritten, or cannot be written.

        """
        write_atomically(Path(path), self.content, overwrite=overwrite)
        return Path(path)
