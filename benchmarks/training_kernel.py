"""The rounding of a gradient on a GPU: LUQ's kernel and torch's operators as parts of a copy, by events of the device.

The kernel reads a tensor once and writes one, as a copy does, and finding its maximum reads it once more; hindsight
does without. So a half more than a copy is what memory allows with the maximum, and a copy is without.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable

import click
import runs
import torch

from ptq import formats
from ptq.training.gradients import largest_magnitude
from ptq.training.powers import stochastic_powers, uniform_like


def microseconds(way: Callable[[], object], rounds: int) -> float:
    """The median of single calls."""
    taken = []
    for number in range(rounds + 3):  # three to warm up and compile
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        way()
        end.record()
        end.synchronize()
        if number >= 3:
            taken.append(start.elapsed_time(end) * 1e3)
    return statistics.median(taken)


@click.command()
@click.option("--size", type=click.IntRange(1), default=2**26, show_default=True, help="Numbers, float32.")
@click.option("--rounds", type=click.IntRange(1), default=50, show_default=True)
def main(size: int, rounds: int) -> None:
    """Time the rounding of a gradient on a CUDA device."""
    if not torch.cuda.is_available():
        raise click.ClickException("there is no CUDA device to time the kernel on")
    try:
        from ptq.training import triton_kernels
    except ImportError as error:
        raise click.ClickException(f"the kernel needs Triton: {error}") from None
    fmt, x = formats.get("luq_fp4"), torch.randn(size, device="cuda")
    out, scale = torch.empty_like(x), largest_magnitude(x) / fmt.max
    ways: dict[str, Callable[[], object]] = {
        "copy": lambda: out.copy_(x),
        "maximum": lambda: largest_magnitude(x),
        "kernel": lambda: triton_kernels.drawn(fmt, x, scale),
        "kernel with the maximum": lambda: triton_kernels.drawn(fmt, x, largest_magnitude(x) / fmt.max),
        "torch's operators": lambda: stochastic_powers(fmt, x / scale, uniform_like(x)).mul_(scale),
    }
    print(f"{runs.headline()}, {torch.cuda.get_device_name()}, {size} numbers\n")
    print(runs.head(["", "us", "of a copy", "GB/s of one read and one write"]))
    times = {name: microseconds(way, rounds) for name, way in ways.items()}
    for name, taken in times.items():
        print(runs.row([name, f"{taken:.1f}", f"{taken / times['copy']:.2f}x", f"{8 * size / taken / 1e3:.0f}"]))


if __name__ == "__main__":
    main()
