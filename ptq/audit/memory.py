"""Print the bytes that `PATH.onnx FEEDS.npz` add to the peak memory of a process: a script of its own.

It imports nothing of this package, so that the peak before loading is the one of ONNX Runtime and NumPy alone.
"""

from __future__ import annotations

import resource
import sys
from pathlib import Path

import numpy as np
import onnxruntime as ort

_STATUS = Path("/proc/self/status")
_QUIET = 3


def peak() -> int:
    """The highest resident size of this process so far, in bytes.

    On Linux not `ru_maxrss`, which a child inherits from the process that started it.
    """
    if _STATUS.exists():
        for line in _STATUS.read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def main(path: str, feeds: str) -> None:
    """Measure, and print the number."""
    with np.load(feeds) as data:
        arrays = {name.removeprefix("feed:"): data[name] for name in data.files}
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = _QUIET
    before = peak()
    session = ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    session.run(None, arrays)
    sys.stdout.write(f"{peak() - before}\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
