"""Whether there is memory for the second moments, asked before anything runs."""

from __future__ import annotations

import os
import re
import resource
from collections.abc import Iterable, Mapping
from pathlib import Path

from ptq.audit.memory import peak
from ptq.errors import ModelError
from ptq.pipeline.calibrate import Key, keys
from ptq.pipeline.parts import Part

_AT_WORK = 4
"""Copies of its second moment, as float64, that a layer needs at most while it is calibrated or rounded; measured."""


def check_moments(parts: Iterable[Part], free: int, *, apart: bool) -> None:
    """Refuse layers whose second moments do not fit into the memory that is free.

    Those of a block are held until it has seen all data, twice where some are kept `apart`; one layer at a time is
    worked on.

    Raises:
        ModelError: they do not fit; it names those without which the others would.

    """
    blocks = [{site.name: keys(site) for site in part.wanted.moments} for part in parts]
    refused = [name for block in blocks for name in _refused(block, free, apart=apart)]
    if refused:
        whole = max(needed_bytes(block, apart=apart) for block in blocks)
        shown, pattern = ", ".join(map(repr, refused)), "|".join(map(re.escape, refused))
        pattern = f"({pattern})" if len(refused) > 1 else pattern
        raise ModelError(
            f"the second moment of the inputs of {shown} does not fit into memory: with it about {whole / 1e9:.1f} GB "
            f"are needed, {free / 1e9:.1f} GB are free; add --keep-float '^{pattern}$', or use --method rtn, which "
            f"needs none"
        )


def _refused(block: Mapping[str, tuple[Key, ...]], free: int, *, apart: bool) -> list[str]:
    """Those of a block without which the others fit."""
    left, refused = dict(block), list[str]()
    while left and needed_bytes(left, apart=apart) > free:
        largest = max(left.values(), key=lambda each: sum(key.moment_bytes for key in each))
        refused += [name for name, each in left.items() if each == largest]
        left = {name: each for name, each in left.items() if name not in refused}
    return refused


def needed_bytes(wanted: Mapping[str, tuple[Key, ...]], *, apart: bool) -> int:
    """What the second moments that sites want take at most, by those they have in common."""
    sizes = {key: key.moment_bytes for each in wanted.values() for key in each}
    return sum(sizes.values()) * (2 if apart else 1) + _AT_WORK * max(sizes.values(), default=0)


def available_bytes(root: Path = Path("/")) -> int | None:
    """The memory that is free for this process, in the machine and in its control groups; None when nobody tells."""
    machine = _number(_fields(root / "proc/meminfo").get("MemAvailable:"))
    known = [*_free_in_groups(root), *_free_in_limit(root), *([] if machine is None else [1024 * machine])]
    if known or root != Path("/"):
        return min(known, default=None)
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):  # Windows has none of it
        return None


def resident_bytes(root: Path = Path("/")) -> int:
    """What this process holds in memory, or has held at most where the system does not tell what it holds now."""
    now = _number(_fields(root / "proc/self/status").get("VmRSS:"))
    return peak() if now is None else 1024 * now


def _free_in_limit(root: Path) -> Iterable[int]:
    """What is left of the address space that this process may have, where that is limited."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    used = _number(_fields(root / "proc/self/status").get("VmSize:"))
    if limit != resource.RLIM_INFINITY and used is not None:
        yield max(limit - 1024 * used, 0)


def _free_in_groups(root: Path) -> Iterable[int]:
    """What is left to the control groups of this process and those around them; caches can be dropped."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        single = controllers == ""  # version 2, which has one tree for everything
        if not single and "memory" not in controllers.split(","):
            continue
        tree = root / "sys/fs/cgroup" / ("" if single else "memory")
        limit, usage = ("max", "current") if single else ("limit_in_bytes", "usage_in_bytes")
        folder = tree / path.lstrip("/")
        # in a container the path may be that outside of it, and only the top is to be seen
        for group in (folder, *(parent for parent in folder.parents if parent.is_relative_to(tree))):
            most, used = (_number(_text(group / f"memory.{name}")) for name in (limit, usage))
            if most is not None and used is not None:
                cache = _number(_fields(group / "memory.stat").get("inactive_file")) or 0
                yield max(most - used + cache, 0)


def _fields(path: Path) -> dict[str, str]:
    """The lines of a file by their first words."""
    parts = (line.split() for line in _text(path).splitlines())
    return {words[0]: words[1] for words in parts if len(words) > 1}


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii", errors="replace")
    except OSError:
        return ""


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and text.strip().isdecimal() else None
