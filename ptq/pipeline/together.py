"""What the stages of a run do where several processes share it; of one process, nothing but the stage itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import torch

from calibration.batch import Batch, Share
from calibration.dataset import Dataset
from calibration.observers import Moments
from ptq import distributed
from ptq.cache import Kept, Store
from ptq.model.graph import Model
from ptq.model.save import digest
from ptq.ranks import ranks
from ptq.recipe import Recipe

Name = TypeVar("Name")
T = TypeVar("T")


class Mergeable(Protocol):
    """An observer that is small."""

    def merge(self, other: Any) -> None:
        """See what another has seen."""


Seen = TypeVar("Seen", bound=Mergeable)


def check_alike(model: Model, recipe: Recipe, data: Dataset | None) -> None:
    """Refuse ranks that do not work on the same thing; it is looked at whole.

    Raises:
        UnlikeError: one has another model, recipe or data.

    """
    if ranks().size > 1:
        distributed.check_alike("a model", digest(model))
        distributed.check_alike("options", repr(recipe))
        distributed.check_alike("data", "" if data is None else data.fingerprint())


def least(number: int) -> int:
    """The least of what all ranks give."""
    return min(distributed.gathered(number))


def own(data: Dataset, size: int) -> Iterator[Batch]:
    """The batches of this rank, of up to `size` samples, with the number of samples before each in all."""
    here = ranks()
    return data.batches(size, Share(here.rank, here.size))


def own_count(data: Dataset, size: int) -> int | None:
    """How many those are; None when only a walk through the data would tell."""
    here = ranks()
    return None if data.samples is None else len(range(here.rank, -(-data.samples // size), here.size))


def dealt(costs: Mapping[Name, float]) -> frozenset[Name]:
    """Those of several things that this rank does, so that all have about as much to do."""
    here = ranks()
    owners = here.owners([*costs.values()])
    return frozenset(name for name, owner in zip(costs, owners, strict=True) if owner == here.rank)


def joined(found: Mapping[Name, T]) -> dict[Name, T]:
    """What all ranks have found of several things, by rank."""
    return {name: value for part in distributed.gathered(dict(found)) for name, value in part.items()}


def each(costs: Mapping[Name, float], find: Callable[[Name], T]) -> dict[Name, T]:
    """Something for each of several things, by what they cost: each rank finds a part of it."""
    own = dealt(costs)
    found = joined({name: find(name) for name in costs if name in own})
    return {name: found[name] for name in costs}


def merge(observers: Mapping[Name, Seen]) -> None:
    """Let each observer see what those of the other ranks have seen; in their order, so that all are the same."""
    here = ranks()
    if here.size == 1:
        return
    found = distributed.gathered(dict(observers))
    for name, observer in observers.items():
        first, *others = (each[name] for each in found)
        for other in others:
            first.merge(other)
        vars(observer).update(vars(first))


def add_up(moments: Mapping[Name, tuple[Moments, int, int]]) -> None:
    """Make moments, each with groups and columns, those of all ranks; their sums are exact (see `Moments`)."""
    here = ranks()
    if here.size == 1:
        return
    counts = distributed.gathered([moment.count for moment, _, _ in moments.values()])
    for place, (moment, groups, columns) in enumerate(moments.values()):
        moment.count = sum(each[place] for each in counts)
        if not moment.count:
            continue
        if moment.gram is None or moment.total is None:
            moment.gram = torch.zeros((groups, columns, columns), dtype=torch.float64)
            moment.total = torch.zeros((groups, columns), dtype=torch.float64)
        distributed.add_up(moment.gram)
        distributed.add_up(moment.total)


def get(store: Store, kind: str, key: Callable[[], Any], make: Callable[[], T]) -> T:
    """`Store.get` of what all ranks make together: only if all have it, it is not made again."""
    here = ranks()
    if here.size == 1 or all_have(store.find(kind, key)):
        return store.get(kind, key, make)
    made = make()
    with in_turn():
        return store.get(kind, key, lambda: made)


def all_have(found: object | None) -> bool:
    """Whether no rank has None."""
    return all(distributed.gathered(found is not None))


@contextmanager
def in_turn() -> Iterator[None]:
    """Do something one rank after another, so that who shares the folder of another finds there what that has kept."""
    here = ranks()
    for rank in range(here.size):
        if rank == here.rank:
            yield
        distributed.gathered(None)


def union(shapes: Mapping[str, set[tuple[int, ...]]]) -> dict[str, set[tuple[int, ...]]]:
    """What each of all ranks has seen."""
    found = distributed.gathered(dict(shapes))
    names = dict.fromkeys(name for each in found for name in each)
    return {name: set().union(*(each.get(name, ()) for each in found)) for name in names}


def exchanged(store: Store, kept: Mapping[Name, Kept[T]]) -> dict[Name, Kept[T]]:
    """The entries of all ranks, each of which one of them has made; afterwards they are in the stores of all."""
    here = ranks()
    if here.size == 1:
        return dict(kept)
    found = distributed.gathered({name: each.path.relative_to(store.folder).as_posix() for name, each in kept.items()})
    owners = {entry: rank for rank, each in enumerate(found) for entry in each.values()}
    missing = distributed.gathered([entry for entry in owners if not (store.folder / entry).exists()])
    for entry in sorted({entry for each in missing for entry in each}):
        path = store.folder / entry
        store.put(path, distributed.spread(path.read_bytes() if owners[entry] == here.rank else b"", owners[entry]))
    return {name: Kept(store, store.folder / entry) for each in found for name, entry in each.items()}
