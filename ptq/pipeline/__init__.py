"""The steps joined."""

from __future__ import annotations

from ptq.pipeline.call import preview, quantize, run
from ptq.pipeline.job import Job
from ptq.pipeline.result import Result
from ptq.pipeline.size import Size
from ptq.pipeline.stages import Stages

__all__ = ["Job", "Result", "Size", "Stages", "preview", "quantize", "run"]
