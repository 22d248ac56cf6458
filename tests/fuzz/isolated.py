"""The command line on hostile files: each run in a process of its own, which may take so long and so much."""

from __future__ import annotations

import importlib
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

SECONDS, WAITING_SECONDS = 20, 120
"""Of processor time, and of all time on a machine that may be busy, for a run; one that takes longer hangs."""

MEMORY_BYTES = 3 << 30
"""That a run may add to what it begins with, which is several times what the files here need."""

TRACEBACK, UNLOADABLE = 70, 71
"""Exit codes of what must not happen: an error that is no line, and a written file that does not load."""

_SLOW_PARTS = {
    "ptq.audit.audit": {"peak_bytes": lambda *_: 1 << 20},
    "ptq.audit.timing": {"_ROUNDS": 1, "_WARM_RUNS": 0, "_LEAST_ROUND_SECONDS": 0.0},
    "ptq.model.limits": {"MOST_SECONDS": 3.0},
    "ptq.pipeline.compare": {"peak_bytes": lambda *_: 1 << 20},
    "ptq.pipeline.describe": {"portability": lambda *_: (None, ())},
    "ptq.pipeline.predict": {"_ENOUGH_SECONDS": 0.0},
}
"""What measures for a time, and has nothing to do with what a file holds."""

_MODULES = (
    *("cli", "onnxruntime", "onnx.reference", "onnxscript.optimizer", "onnxscript.version_converter", "PIL.Image"),
    *("onnxscript.rewriter.rules.common", "safetensors.torch", "safetensors.numpy", "scipy.optimize", "torch.export"),
    *("torch.onnx", "ptq.model.export", "ptq.model.programs", "ptq.model.checkpoints", "ptq.report", "rich.table"),
)


@dataclass(frozen=True)
class Outcome:
    """What a run came to: its exit code, or the signal that ended it."""

    code: int
    signal: int
    out: str
    err: str

    def fault(self, *, reported: bool = False) -> str | None:
        """What is wrong with it, where it is neither success nor one clear line with the exit code 1 or 2.

        `reported` says that a failure may be what the command has printed as its result.
        """
        told = self.err[-2000:]
        one_line = self.err.startswith("ptq: ") and self.err.endswith("\n") and self.err.count("\n") == 1
        if self.signal:
            slow = self.signal in (signal.SIGALRM, signal.SIGXCPU)
            return f"it takes over {SECONDS} s" if slow else f"signal {self.signal} ends it"
        if self.code == UNLOADABLE:
            return f"what it wrote does not load: {told}"
        if self.code not in (0, 1, 2):
            return f"exit code {self.code}: {told}"
        if self.code == 0 or (reported and self.code == 1 and self.out and not self.err):
            return f"it succeeds and says {told}" if self.err else None
        return None if one_line else f"no single line: {told}"


def prepare() -> None:
    """Import what all runs need, and leave out what only measures."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for name in _MODULES:
        importlib.import_module(name)
    for name, parts in _SLOW_PARTS.items():
        for part, instead in parts.items():
            setattr(importlib.import_module(name), part, instead)


def run(arguments: Sequence[object], folder: Path, written: Path | None = None) -> Outcome:
    """Run the command line; where it succeeds and was to write a file, ONNX Runtime has to load that."""

    def command() -> int:
        from cli import main

        try:
            main([str(each) for each in arguments])
        except SystemExit as stop:
            code = int(stop.code or 0)
        return _loaded(written) if written is not None and not code else code

    return isolated(command, folder)


def isolated(work: Callable[[], int], folder: Path) -> Outcome:
    """Do some work in a process of its own, which ends with the number that it returns."""
    streams = [folder / "stdout", folder / "stderr"]
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        _work(work, streams)
    _, status = os.waitpid(child, 0)
    out, err = (path.read_text(encoding="utf-8", errors="replace") for path in streams)
    for path in streams:
        path.unlink()
    ended = os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
    return Outcome(-1 if ended else os.WEXITSTATUS(status), ended, out, err)


def _work(work: Callable[[], int], streams: Sequence[Path]) -> None:
    """What the process does; it never returns."""
    code = TRACEBACK
    try:
        for number, path in enumerate(streams, 1):
            os.dup2(os.open(path, os.O_CREAT | os.O_WRONLY), number)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)  # these end what is not in Python, too
        signal.alarm(WAITING_SECONDS)
        resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS + 1))
        most = _address_space() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        code = work()
    except BaseException:  # noqa: BLE001  (whatever it is, it is what is looked for)
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()


def _loaded(path: Path) -> int:
    import onnxruntime as ort

    try:
        options = ort.SessionOptions()
        options.log_severity_level = 4
        ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # noqa: BLE001  (they share no class)
        sys.stderr.write(f"{error}\n")
        return UNLOADABLE
    return 0
