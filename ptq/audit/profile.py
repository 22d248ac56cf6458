"""How long each site takes inside its network, by ONNX Runtime's profiler."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ptq.audit.audit import kernels_of
from ptq.audit.kernels import Kernel
from ptq.disk import check_room, passing
from ptq.model.session import Session

_WARM, _ROUNDS = 2, 12
_MOST_SECONDS = 10.0
_KERNEL_TIME = "_kernel_time"
_MICROSECOND = 1e-6
_ENOUGH = 1 << 20
"""Bytes of the profile of a network."""


@dataclass(frozen=True)
class Profile:
    """Seconds of the kernels of each site, and of all other nodes together, medians over runs.

    `moved` is how many bytes the kernels of each site read besides weights and write.
    """

    sites: Mapping[str, float]
    others: float
    moved: Mapping[str, int]

    @property
    def whole(self) -> float:
        """Seconds of all nodes."""
        return sum(self.sites.values()) + self.others


@dataclass
class NodeRuns:
    """Microseconds of every run of a node, and the bytes of its inputs and outputs."""

    durations: list[float] = field(default_factory=list)
    moved: int = 0


def profiles(paths: Sequence[Path], feeds: Mapping[str, np.ndarray]) -> list[Profile]:
    """Profiles of files with marks, which take turns; what is between the nodes is in none.

    Raises:
        AuditError: a file does not load.
        OutputError: there is no room for what is measured.

    """
    kernels = [kernels_of(path) for path in paths]
    with passing() as folder:
        sessions = [Session(path, profile=folder / f"{number}") for number, path in enumerate(paths)]
        start = time.perf_counter()
        for session in sessions:
            session.run(feeds)
        pair = time.perf_counter() - start
        rounds = _WARM + max(3, min(_ROUNDS, int(_MOST_SECONDS / max(pair, 1e-9))))
        for _ in range(rounds):
            for session in sessions:
                session.run(feeds)
        try:
            found = [node_runs(session.end_profiling()) for session in sessions]
        except (OSError, ValueError):  # ONNX Runtime does not say that it could not write
            check_room(folder, _ENOUGH)
            raise
    return [_profile(nodes, known) for nodes, known in zip(found, kernels, strict=True)]


def node_runs(events: Path) -> dict[str, NodeRuns]:
    """Every node of a profile that ONNX Runtime wrote, by its name."""
    found: defaultdict[str, NodeRuns] = defaultdict(NodeRuns)
    for event in json.loads(events.read_text(encoding="utf-8")):
        if event.get("cat") == "Node" and event["name"].endswith(_KERNEL_TIME):
            node = found[event["name"].removesuffix(_KERNEL_TIME)]
            node.durations.append(event["dur"])
            node.moved = sum(int(event["args"].get(f"{kind}_size", 0)) for kind in ("activation", "output"))
    return found


def _profile(nodes: Mapping[str, NodeRuns], kernels: Mapping[str, Kernel]) -> Profile:
    medians = {name: _MICROSECOND * float(np.median(node.durations[_WARM + 1 :])) for name, node in nodes.items()}
    moved = {site: sum(nodes[name].moved for name in kernel.nodes if name in nodes) for site, kernel in kernels.items()}
    sites = {site: sum(medians.pop(name, 0.0) for name in kernel.nodes) for site, kernel in kernels.items()}
    return Profile(sites, sum(medians.values()), moved)
