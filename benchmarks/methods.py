r"""Quantize models by every method to every number of bits, and make one table and one figure of what came out.

    python benchmarks/models.py LOADERS MODELS
    python benchmarks/methods.py --results methods.jsonl \
        --task EfficientNet-Lite0 lite0.onnx lite0_calib.npz lite0_eval.npz uint8 \
        --task SmolLM2 smollm2.onnx smollm2_calib.npz smollm2_eval.npz none --limit 900
    python benchmarks/methods.py --results methods.jsonl --table methods.md --figure methods

Each point is a whole `ptq quantize` in a process of its own, and becomes a line of the file of results when it ends.
What has a line is not run again, so that one who stopped goes on with the same command. A point that is refused, fails
or takes too long is kept too, with the reason; after that, the same options with other values are not tried.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import method_points
import method_results
import method_table
import records
import runs
from method_results import DONE, Key, Result, Task

from ptq.errors import suggest
from ptq.recipe import ACTIVATIONS

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)
_NEW = click.Path(dir_okay=False, path_type=Path)
TASK = (str, _FILE, _FILE, _FILE, click.Choice(ACTIVATIONS))


@click.command()
@click.option("--results", required=True, type=_NEW, help="JSON lines; added to.")
@click.option("--task", "tasks", multiple=True, type=TASK, metavar="NAME MODEL CALIB EVAL ACTIVATIONS")
@click.option("--only", multiple=True, metavar="TASK[,METHOD[,BITS]]", help="These and no others; may be repeated.")
@click.option("--limit", type=click.FloatRange(0, min_open=True), help="Seconds that a point may take.")
@click.option("--again", is_flag=True, help="Also what has a line; the last one counts.")
@click.option("--table", type=_NEW, help="Write a page of the results; run none.")
@click.option("--figure", type=_NEW, help="Draw the results in two files, .png and .svg; run none.")
def main(
    *,
    results: Path,
    tasks: tuple[tuple[str, Path, Path, Path, str], ...],
    only: tuple[str, ...],
    limit: float | None,
    again: bool,
    table: Path | None,
    figure: Path | None,
) -> None:
    """Quantize every model by every method and keep what comes out."""
    if table is not None:
        known = table.read_text(encoding="utf-8") if table.exists() else ""
        table.parent.mkdir(parents=True, exist_ok=True)
        page = method_table.render(method_results.read(results)) + method_table.findings(known)
        table.write_text(page, encoding="utf-8")
    if figure is not None:
        import method_figure

        method_figure.draw(method_results.read(results), figure)
    if table is not None or figure is not None:
        return
    chosen = [Task(name, runs.Task(*files), activations) for name, *files, activations in tasks]
    if not chosen:
        raise click.UsageError("there is nothing to run; give --task, or --table or --figure for what has been run")
    _check(only, [task.name for task in chosen])
    for task in chosen:
        for key in _keys(task, only):
            found = _found(task, key, limit, [] if again else method_results.standing(method_results.read(results)))
            if found is not None:
                records.append(results, found.line())
                click.echo(_said(found))


def _found(task: Task, key: Key, limit: float | None, known: Sequence[Result]) -> Result | None:
    """What comes of a point; None if that is known."""
    if any(each.settles(key, limit) for each in known):
        return None
    late = next((each for each in known if each.rules_out(key, limit)), None)
    if late is not None:
        made = method_results.untried(key, late)
        return None if any((each.key, each.why) == (key, made.why) for each in known) else made
    with tempfile.TemporaryDirectory() as folder:
        return method_results.measure(task, key, Path(folder), limit)


def _check(only: Sequence[str], tasks: Sequence[str]) -> None:
    """Refuse what names nothing, before hours go by without it."""
    known = (tasks, method_points.METHODS, [f"{bits:g}" for bits in method_points.BITS])
    for each in only:
        parts = each.split(",")
        if len(parts) > len(known):
            raise click.UsageError(f"--only {each!r} has {len(parts)} parts; give TASK, TASK,METHOD or all three")
        for what, name, names in zip(("task", "method", "number of bits"), parts, known, strict=False):
            if name and name not in names:
                raise click.UsageError(f"unknown {what} {name!r}; {suggest(name, names)}")


def _keys(task: Task, only: Sequence[str]) -> Iterator[Key]:
    """The points of a task that are wanted; a part of `--only` that is empty is any."""
    files = task.digest()
    for point in method_points.points():
        names = (task.name, point.method, f"{point.bits:g}")
        wanted = (each.split(",") for each in only)
        if not only or any(all(p in ("", n) for p, n in zip(parts, names, strict=False)) for parts in wanted):
            yield Key(task.name, files, point.method, point.bits, tuple(point.arguments(task.activations)))


def _said(result: Result) -> str:
    key, figures = result.key, result.figures
    what = f"{key.task}, {key.method}, {key.bits:g} bits: "
    if result.outcome != DONE:
        return f"{what}{result.outcome}: {result.why}"
    name, value = method_results.metric(figures), method_results.score(result)
    cells = (f"{name} {'no number' if value is None else f'{value:.4g}'}", f"{figures['wall_seconds']:.0f} s")
    return what + ", ".join(cells)


if __name__ == "__main__":
    main()
