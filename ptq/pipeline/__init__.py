"""The steps joined."""

from __future__ import annotations

from ptq.pipeline.call import assist, preview, quantize, run
from ptq.pipeline.compare import Compared, compare
from ptq.pipeline.diagnose import Diagnosed, diagnose
from ptq.pipeline.inspect import inspect
from ptq.pipeline.job import Job
from ptq.pipeline.manifest import cores
from ptq.pipeline.result import Result
from ptq.pipeline.size import Size
from ptq.pipeline.stages import Stages
from ptq.pipeline.sweep import Swept, sweep

__all__ = [
    "Compared",
    "Diagnosed",
    "Job",
    "Result",
    "Size",
    "Stages",
    "Swept",
    "assist",
    "compare",
    "cores",
    "diagnose",
    "inspect",
    "preview",
    "quantize",
    "run",
    "sweep",
]
