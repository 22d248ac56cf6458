"""One line of the file of results of the methods: a point of a model, and what came of it."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any, Final

import records
import runs

from ptq.errors import OptionError
from ptq.pipeline.manifest import processor

DONE, REFUSED, LATE, FAILED, UNTRIED = "done", "refused", "late", "failed", "not run"

FLOAT: Final = "FP32"


@dataclass(frozen=True)
class Task:
    """A model by name, with its data and what activations people give models of its kind."""

    name: str
    files: runs.Task
    activations: str

    def digest(self) -> str:
        """Of the three files, so that results of others are not taken for theirs."""
        whole = hashlib.sha256()
        for path in (self.files.model, self.files.data, self.files.evaluation):
            with path.open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
        return whole.hexdigest()[:16]


@dataclass(frozen=True)
class Key:
    """What was run: the same key comes to the same file, up to the version of `ptq`."""

    task: str
    files: str
    method: str
    bits: float
    arguments: tuple[str, ...]


@dataclass(frozen=True)
class Result:
    """What came of it: figures of one that is done, else why there are none."""

    key: Key
    outcome: str
    figures: Mapping[str, float | None]
    why: str | None
    limit: float | None
    """Seconds that it was given."""
    versions: Mapping[str, str]
    machine: str
    day: str

    def line(self) -> str:
        """As JSON."""
        return json.dumps(asdict(self), allow_nan=False)

    @classmethod
    def parse(cls, line: str) -> Result:
        """Back from JSON."""
        fields: dict[str, Any] = json.loads(line)
        key = fields.pop("key")
        return cls(key=Key(**{**key, "arguments": tuple(key["arguments"])}), **fields)

    def settles(self, key: Key, limit: float | None) -> bool:
        """Whether a point need not be run: one that was late may be again, with more time."""
        return self.key == key and self.outcome != UNTRIED and not (self.outcome == LATE and self._is_less(limit))

    def rules_out(self, key: Key, limit: float | None) -> bool:
        """Whether a point need not be tried: a method takes about as long with other values of the same options."""
        mine, other = ((each.task, each.files, each.method, each.arguments[::2]) for each in (self.key, key))
        return mine == other and self.outcome == LATE and not self._is_less(limit)

    def _is_less(self, limit: float | None) -> bool:
        return self.limit is not None and (limit is None or limit > self.limit)


def read(path: Path) -> list[Result]:
    """The results in a file, none if there is no file."""
    return [Result.parse(line) for line in records.lines(path)]


def standing(results: Iterable[Result]) -> list[Result]:
    """The last of each key: what was late may since have been given more time."""
    return list({result.key: result for result in results}.values())


def untried(key: Key, late: Result) -> Result:
    """A point that another one of its method rules out."""
    why = f"over {late.limit:g} s at {late.key.bits:g} bits"
    return replace(late, key=key, outcome=UNTRIED, why=why, day=date.today().isoformat())


def measure(task: Task, key: Key, folder: Path, limit: float | None) -> Result:
    """Run a point, whatever comes of it."""
    figures: Mapping[str, float | None] = {}
    output, why = folder / "quantized.onnx", None
    try:
        figures = _figures(runs.quantize(task.files, key.arguments, output, limit))
        outcome = DONE
    except runs.LateError:
        outcome, why = LATE, f"over {limit:g} s"
    except runs.FailedError as error:
        outcome = REFUSED if error.code == OptionError.exit_code else FAILED
        why = error.why.removeprefix("ptq: ")
    for path in folder.iterdir():
        path.unlink()
    versions = records.versions(("ptq-toolkit", "onnxruntime", "torch", "numpy"))
    return Result(key, outcome, figures, why, limit, versions, processor(), date.today().isoformat())


def metric(figures: Mapping[str, float | None]) -> str:
    """What a model is judged by: the first that the float one has."""
    return next((name for name in ("perplexity", "top1") if figures.get(f"{name}_float") is not None), "cosine")


def score(result: Result) -> float | None:
    """How a point did by what its model is judged by; None where there is no such number."""
    return result.figures[metric(result.figures)] if result.outcome == DONE else None


def of_float(results: Iterable[Result]) -> tuple[str, float, float | None] | None:
    """By what the model of these results is judged, and megabytes and score of the float one; None if none is done."""
    for result in results:
        size = result.figures.get("float_bytes")
        if result.outcome == DONE and size is not None:
            name = metric(result.figures)
            return name, size / 1e6, 1.0 if name == "cosine" else result.figures[f"{name}_float"]
    return None


def latest(results: Iterable[Result]) -> list[Result]:
    """One of each point of a model, that which was run last, in the order in which they came."""
    found = {(result.key.task, result.key.method, result.key.bits): result for result in results}
    return list(found.values())


def by_task(results: Iterable[Result]) -> dict[str, list[Result]]:
    """In the order in which tasks came."""
    found: dict[str, list[Result]] = {}
    for result in results:
        found.setdefault(result.key.task, []).append(result)
    return found


def made(results: Sequence[Result]) -> str:
    """Days, versions and machines that results are from."""
    days = sorted({result.day for result in results})
    span = " to ".join(dict.fromkeys((days[0], days[-1]))) if days else "no results yet"
    plain = {", ".join(f"{n} {v}" for n, v in each.versions.items() if n != "commit") for each in results}
    commits = sorted({each.versions["commit"] for each in results if "commit" in each.versions})
    from_commits = [f"commits {', '.join(commits)}"] if commits else []
    return "; ".join([span, *sorted(plain), *from_commits, *sorted({each.machine for each in results})])


def _figures(run: runs.Run) -> dict[str, float | None]:
    accuracy, file = run.accuracy, run.report.file
    names = ("cosine", "agreement", "sqnr_db")
    scores = {key: runs.scored(accuracy, name) for key, name in (("top1", "top-1"), ("perplexity", "perplexity"))}
    found: dict[str, float | None] = {
        "bits": run.report.bits_per_weight,
        "bytes": file.bytes,
        "float_bytes": file.float_bytes,
        **{name: getattr(accuracy, name) for name in names},
        **{f"{key}_float": of_float for key, (of_float, _) in scores.items()},
        **{key: own for key, (_, own) in scores.items()},
        "latency_ratio": file.latency_ratio,
        "load_seconds": file.load_seconds,
        "quantize_seconds": run.quantizing,
        "wall_seconds": run.seconds,
        "peak_bytes": run.peak_bytes,
    }
    return {name: value if value is None or math.isfinite(value) else None for name, value in found.items()}
