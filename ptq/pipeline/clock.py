"""Which layers may stay in float, by how long the network then takes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

import numpy as np

from ptq.allocation import Rungs, Speed
from ptq.audit import latency
from ptq.audit.profile import Profile, profiles
from ptq.disk import passing
from ptq.errors import OptionError, rounded_up
from ptq.model.graph import Model
from ptq.model.save import write
from ptq.model.session import Session
from ptq.pipeline.solved import SiteWeights

_CHOICES = 3
"""Before every site is quantized after all."""

_MARGIN = 0.98
_ROUNDED = 1 + 1e-6
"""The least time is a sum, which the program adds in another order."""

Weights = Mapping[str, SiteWeights]


@dataclass(frozen=True, eq=False)
class Clock:
    """Runs networks on one sample; `lowered` makes one of the sites that have weights, the others in float.

    `most` is how long it may take, as a part of the time of the float network.
    """

    lowered: Callable[[Weights], Model]
    feeds: Mapping[str, np.ndarray]
    most: float

    def within(self, weights: Callable[[Rungs], Weights], full: Rungs, choose: Callable[[Speed], Rungs]) -> Rungs:
        """What `choose` finds, with as little time as makes the network fast enough; `full` quantizes every site.

        What single layers take does not add up to what the network does, as what is between them depends on both
        neighbours: the choice is measured, and made again with less.

        Raises:
            OptionError: no choice that was tried is fast enough.

        """
        with passing() as folder:
            reference, quantized, some = (folder / f"{name}.onnx" for name in ("float", "quantized", "some"))
            every_other = {name: rung for k, (name, rung) in enumerate(full.items()) if k % 2}
            for path, rungs in ((quantized, full), (some, every_other)):
                write(self.lowered(weights(rungs)), path)
            write(self.lowered({}), reference)
            floats, integers, mixed = profiles([reference, quantized, some], self.feeds)
            seconds = _in_float(floats, integers, mixed, full, every_other)
            least = Speed(integers.sites, seconds, 0.0).least(full)
            rest = integers.whole - sum(integers.sites.get(name, 0.0) for name in full)
            network, aim, ratios = Session(reference), self.most, list[float]()
            for _ in range(_CHOICES):
                rungs = choose(Speed(integers.sites, seconds, max(aim * floats.whole - rest, least * _ROUNDED)))
                if not rungs:
                    raise OptionError(f"--max-latency {self.most:g} leaves every layer in float; give less")
                write(self.lowered(weights(rungs)), some)
                ratios.append(latency(network, Session(some), self.feeds).ratio)
                if ratios[-1] <= self.most:
                    return rungs
                aim *= _MARGIN * self.most / ratios[-1]
            ratios.append(latency(network, Session(quantized), self.feeds).ratio)
            if ratios[-1] <= self.most:
                return full
        raise OptionError(
            f"--max-latency {self.most:g}: the fastest that was found takes {rounded_up(min(ratios), 2)} of FP32's "
            f"time on this machine; give a little more, or another --activations"
        )


def _in_float(
    floats: Profile, integers: Profile, mixed: Profile, full: Collection[str], quantized: Collection[str]
) -> dict[str, float]:
    """Seconds of each site in float among integers: of its kernel, and of what turns its input and output.

    The latter goes by the bytes of both, as it does in a network of which only some sites are `quantized`.
    """
    moved = sum(floats.moved.get(name, 0) for name in full if name not in quantized)
    rate = max(mixed.others - integers.others, 0.0) / max(moved, 1)
    return {name: floats.sites.get(name, 0.0) + rate * floats.moved.get(name, 0) for name in full}
