"""Whether a process that quantizes again and again holds more and more: memory, handles, threads, temporary files.

    python benchmarks/soak.py --calls 1000

Calls of `ptq.quantize` follow each other in one process: files, ONNX models and modules, several methods and formats,
with data and without, and calls that fail. The data of each are its own, so that little is found in the cache, which is
kept to 20 MB. After a warm-up, what the process holds is looked at in steps, behind a collection of garbage and when
freed memory has been given back.

There is growth where the slope of the line through the steps, less twice its standard error, is above 8 kB or 5 Python
objects a call. A session of the smallest of these models takes some 100 kB. Resident memory does rise, by 5 kB a call
in the first hundreds and by less later, in which objects of Python have no part: of each export, every 25th call, torch
keeps some 30. Before it was made to let go of the others it was 15 a call. Of handles, threads and temporary files
there may be no more at the end than at the beginning.
"""

from __future__ import annotations

import gc
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, Final

import click
import numpy as np
import onnx
import torch
from torch import nn

import ptq
from ptq import heap
from ptq.errors import PtqError
from ptq.model.capture import CaptureOptions, captured

MOST_A_CALL: Final = {"kilobytes": 8.0, "objects": 5.0}
_SAMPLES: Final = 8
_PAGE: Final = os.sysconf("SC_PAGE_SIZE")
_PROCESS: Final = Path("/proc/self")

Arrays = dict[str, np.ndarray]


class Images(nn.Module):
    """Two convolutions and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.three = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3), nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of images `(n, 3, 8, 8)`."""
        y: torch.Tensor = self.three(self.two(self.one(x).relu()).relu().mean((2, 3)))
        return y


class Tokens(nn.Module):
    """Products of rank 3."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Vectors of tokens `(n, 6, 32)`."""
        y: torch.Tensor = self.two(nn.functional.gelu(self.one(x)))
        return y


SHAPES: Final[Mapping[type[nn.Module], tuple[int, ...]]] = {Images: (3, 8, 8), Tokens: (6, 32)}
FAILING: Final = ("name", "nan", "method", "shape")
RECIPES: Final[tuple[Mapping[str, Any], ...]] = (
    {"method": "rtn", "weights": "int8"},
    {"method": "multipoint"},
    {"method": "gptq", "weights": "int4", "activations": "none"},
    {"method": "mixed"},
    {"method": "adaround", "weights": "int4"},
    {"method": "rtn", "weights": "nf4", "activations": "none"},
    {"method": "hqq", "weights": "int4", "activations": "none"},
    {"method": "rtn", "weights": "fp8_e4m3fn", "activations": "fp8_e4m3fn"},
    {"method": "gpfq", "weights": "int4"},
    {"method": "rtn", "weights": "lloyd4", "activations": "none"},
    {"method": "rtn", "weights": "int8", "target": "tensorrt"},
)


@dataclass(frozen=True)
class Held:
    """What the process holds."""

    calls: int
    kilobytes: float
    handles: int
    threads: int
    files: int
    objects: int

    @classmethod
    def now(cls, calls: int, folder: Path) -> Held:
        """When garbage is collected and freed memory given back."""
        gc.collect()
        heap.trim()
        resident = int((_PROCESS / "statm").read_text(encoding="ascii").split()[1])
        counts = (len(list((_PROCESS / name).iterdir())) for name in ("fd", "task"))
        return cls(calls, resident * _PAGE / 1e3, *counts, len(list(folder.rglob("*"))), len(gc.get_objects()))


@dataclass
class Calls:
    """Calls that come round again, each with data of its own."""

    rng: np.random.Generator
    modules: Mapping[type[nn.Module], nn.Module]
    models: Mapping[type[nn.Module], onnx.ModelProto]
    files: Mapping[type[nn.Module], Path]

    @classmethod
    def of(cls, folder: Path) -> Calls:
        """With models in a folder."""
        torch.manual_seed(0)
        rng = np.random.default_rng(0)
        modules = {kind: kind().eval() for kind in SHAPES}
        models = {kind: captured(each, CaptureOptions(), _data(rng, kind)) for kind, each in modules.items()}
        files = {kind: folder / f"{kind.__name__}.onnx" for kind in SHAPES}
        for kind, path in files.items():
            onnx.save(models[kind], path)
        return cls(rng, modules, models, files)

    def call(self, number: int) -> None:
        """The call of a number."""
        kind = list(SHAPES)[number % 2]
        data, recipe = _data(self.rng, kind), dict(RECIPES[number % len(RECIPES)])
        if number % 10 == 9:
            self._fail(kind, data, FAILING[number // 10 % len(FAILING)])
        elif number % 25 == 4:
            ptq.quantize(self.modules[kind], data, **recipe)
        else:
            model = self.files[kind] if number % 3 else self.models[kind]
            needs = recipe["method"] not in ("rtn", "hqq") or recipe.get("activations") != "none"
            evaluation = data if number % 4 == 0 else None
            ptq.quantize(model, data if needs else None, eval_data=evaluation, **recipe)

    def _fail(self, kind: type[nn.Module], data: Arrays, how: str) -> None:
        """A call that is refused early or late."""
        method = "rnt" if how == "method" else "gptq"
        if how == "nan":
            data["x"][-1] = np.nan
        elif how == "shape":
            data["x"] = data["x"][:, :1]
        wanted = {"other": data["x"]} if how == "name" else data
        with suppress(PtqError):
            ptq.quantize(self.files[kind], wanted, method=method, weights="int4")
            raise click.ClickException(f"a call that should fail, by its {how}, did not")


def _data(rng: np.random.Generator, kind: type[nn.Module]) -> Arrays:
    return {"x": rng.standard_normal((_SAMPLES, *SHAPES[kind])).astype(np.float32)}


def slope(steps: list[Held], of: str) -> tuple[float, float]:
    """How much more of something a call by least squares, and the standard error of that."""
    x, y = (np.array([getattr(step, name) for step in steps], float) for name in ("calls", of))
    x = x - x.mean()
    found = float(x @ (y - y.mean()) / (x @ x))
    rest = y - y.mean() - found * x
    return found, float(np.sqrt(rest @ rest / max(len(steps) - 2, 1) / (x @ x)))


def growing(steps: list[Held]) -> Iterator[str]:
    """What there is more and more of."""
    for name, most in MOST_A_CALL.items():
        found, error = slope(steps, name)
        if found - 2 * error > most:
            yield f"{name} by {found:.1f} a call"
    for name in ("handles", "threads", "files"):
        first, last = (getattr(step, name) for step in (steps[0], steps[-1]))
        if last > first:
            yield f"{name} from {first} to {last}"


@click.command()
@click.option("--calls", default=1000, show_default=True, help="After the warm-up.")
@click.option("--warm-up", default=100, show_default=True, help="Calls before the first look.")
@click.option("--step", default=50, show_default=True, help="Calls from look to look.")
def main(calls: int, warm_up: int, step: int) -> None:
    """Quantize again and again, and exit with 1 where the process holds more and more."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        passing = folder / "passing"
        passing.mkdir()
        os.environ |= {"PTQ_CACHE": str(folder / "cache"), "PTQ_CACHE_GB": "0.02"}
        about, steps, start = Calls.of(folder), list[Held](), time.perf_counter()
        tempfile.tempdir = str(passing)
        click.echo("| calls | resident MB | handles | threads | temporary files | Python objects |")
        click.echo("|---|---|---|---|---|---|")
        for number in range(warm_up + calls + 1):
            if number >= warm_up and (number - warm_up) % step == 0:
                steps.append(Held.now(number, passing))
                done, kilobytes, *others = astuple(steps[-1])
                click.echo(f"| {' | '.join((f'{done:,}', f'{kilobytes / 1e3:.1f}', *map(str, others)))} |")
            about.call(number)
        tempfile.tempdir = None
        wrong = list(growing(steps))
        found, error = slope(steps, "kilobytes")
        verdict = f"GROWS, {', '.join(wrong)}" if wrong else "STEADY"
        seconds = time.perf_counter() - start
        click.echo(f"{verdict}: {found:.2f} ± {error:.2f} kB a call over {calls:,} calls in {seconds:.0f} s")
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
