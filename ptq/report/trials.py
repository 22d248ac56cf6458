"""What was tried to find the best of several recipes, as data and on the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ptq.report.console import print_line, print_whole

SCHEMA = 1
_NUMBERS = ("bits", "bytes", "drop", "SQNR", "latency", "seconds")


@dataclass(frozen=True)
class Trial:
    """One recipe: what it came to, or in `note` why it was not tried or does not meet the bounds.

    `drop` is a fraction, `latency_ratio` in relation to FP32's. Before anything is tried, `bytes` are those that are
    expected of the weights.
    """

    recipe: str
    bits_per_weight: float | None = None
    bytes: int | None = None
    drop: float | None = None
    sqnr_db: float | None = None
    latency_ratio: float | None = None
    seconds: float = 0.0
    met: bool = False
    note: str | None = None


@dataclass(frozen=True)
class Trials:
    """All recipes, and the bounds that they were to meet: a drop by `measure`, over `samples`, and bytes of the file.

    `taken` is None where nothing was tried or nothing met the bounds.
    """

    tried: tuple[Trial, ...]
    max_drop: float | None
    target_bytes: int | None
    measure: str | None = None
    samples: int = 0
    taken: str | None = None
    schema: int = SCHEMA

    @property
    def bounds(self) -> str:
        """The bounds in a few words."""
        drop = None if self.max_drop is None else f"a drop of at most {self.max_drop:g}"
        size = None if self.target_bytes is None else f"a file of at most {self.target_bytes:,} bytes"
        return " and ".join(filter(None, (drop, size)))


def render_trials(trials: Trials, console: Console) -> None:
    """Print what was tried: how, each recipe in a line, what was taken, and why some could not be tried."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for title in ("recipe", *_NUMBERS, ""):
        table.add_column(title, justify="right" if title in _NUMBERS else "left", no_wrap=True)
    for trial in trials.tried:
        table.add_row(*(Text(cell) for cell in cells(trial, trials)))
    print_line(console, f"auto     {_how(trials)}")
    print_whole(console, table)
    for trial in trials.tried:
        if trial.bytes is None:
            print_line(console, f"refused  {trial.recipe}: {trial.note}")
    print_line(console, _outcome(trials))


def _how(trials: Trials) -> str:
    if trials.measure is None:
        return f"recipes to be tried for {trials.bounds or 'a file of the size given'}; bytes are those of weights"
    return (
        f"calibrated on every other sample of the data, compared on the {trials.samples} others; "
        f"the drop is that of {trials.measure}"
    )


def _outcome(trials: Trials) -> str:
    if trials.measure is None:
        return "nothing was written: --dry-run"
    best = "among the smallest" if trials.max_drop is not None else "the most accurate"
    taken = f"{trials.taken}, {best} with" if trials.taken else "none: no recipe has"
    return f"taken    {taken} {trials.bounds}"


def cells(trial: Trial, trials: Trials) -> Iterator[str]:
    """What the table shows of a recipe."""
    yield trial.recipe
    yield "" if trial.bits_per_weight is None else f"{trial.bits_per_weight:.2f}"
    yield "" if trial.bytes is None else f"{trial.bytes:,}"
    yield "" if trial.drop is None else f"{trial.drop:.4f}"
    yield "" if trial.sqnr_db is None else f"{trial.sqnr_db:.1f} dB"
    yield "" if trial.latency_ratio is None else f"{trial.latency_ratio:.2f}x"
    yield f"{trial.seconds:.1f}" if trial.seconds else ""
    if trial.bytes is None:
        yield "refused"
    else:
        yield trial.note or ("taken" if trial.recipe == trials.taken else "met" if trial.met else "")
