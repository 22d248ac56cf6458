"""The steps joined."""

from __future__ import annotations

from ptq.pipeline.job import Job, preview, quantize, run
from ptq.pipeline.result import Result
from ptq.pipeline.stages import Stages

__all__ = ["Job", "Result", "Stages", "preview", "quantize", "run"]
