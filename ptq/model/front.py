"""Run only what is left of a network behind a cut, which moves from the inputs to the outputs."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from ptq.model.blocks import can_be_fed, part, with_bodies
from ptq.model.graph import Model, may_be_numbers
from ptq.model.session import Session

Feeds = Mapping[str, np.ndarray]


class Front:
    """A cut through a network, and the tensors that cross it.

    Who changes one weight after the other, in the order of execution, need not run what comes before: on average half
    of the network. Only the tensors of one cut are held.
    """

    def __init__(self, model: Model, batches: Sequence[Feeds]) -> None:
        self._model, self._batches = model.graph, batches
        self._nodes = list(model.graph.graph)
        tops = {node: k for k, top in enumerate(self._nodes) for node in with_bodies(top)}
        self._readers = {
            value: [tops[node] for node, _ in value.uses()]
            for value in (*self._made(len(self._nodes)), *model.graph.graph.initializers.values())
        }
        self._begin()

    def _begin(self) -> None:
        self._at = 0
        self.crossing: list[Feeds] = list(self._batches)
        """The tensors that cross the cut by name, for each batch."""

    def move(self, initializers: Collection[str]) -> None:
        """To where the first of these is read, or as close before it as tensors that can be fed allow."""
        values = [self._model.graph.initializers[name] for name in initializers]
        first = min((k for value in values for k in self._readers[value]), default=self._at)
        if first < self._at:
            self._begin()
        cuts = ((at, self._crossing(at)) for at in range(first, self._at, -1))
        found = next((cut for cut in cuts if all(can_be_fed(value) for value in cut[1])), None)
        if found is not None:
            self._at, crossing = found
            self.crossing = self._run_to(crossing)

    def through(self, model: Model) -> Front:
        """The same cut through a network that differs from this one in initializers, none of them before the cut."""
        other = Front(model, self._batches)
        other._at, other.crossing = self._at, self.crossing
        return other

    def rest(self, arrays: Feeds) -> Session | None:
        """What is behind the cut with other initializers; None where no output is."""
        made = {*self._made(self._at)}
        outputs = [value for value in self._model.graph.outputs if value not in made and may_be_numbers(value)]
        return self._part(outputs, arrays) if outputs else None

    def _made(self, at: int) -> list[ir.Value]:
        """The inputs, and what is computed before a cut."""
        graph = self._model.graph
        inputs = [value for value in graph.inputs if not value.is_initializer()]
        return [*inputs, *(out for node in self._nodes[:at] for out in node.outputs)]

    def _crossing(self, at: int) -> list[ir.Value]:
        return [value for value in self._made(at) if max(self._readers[value], default=-1) >= at]

    def _run_to(self, values: Sequence[ir.Value]) -> list[Feeds]:
        names = [str(value.name) for value in values]
        new = [value for value in values if value.name not in self.crossing[0]]
        session = self._part(new, {}) if new else None
        moved: list[Feeds] = []
        for feeds in self.crossing:
            arrays = {} if session is None else dict(zip(session.outputs, session.run(feeds), strict=True))
            moved.append({name: arrays[name] if name in arrays else feeds[name] for name in names})
        return moved

    def _part(self, outputs: Sequence[ir.Value], arrays: Feeds) -> Session:
        """From the cut to these tensors."""
        shapes = {name: ir.Shape([None] * array.ndim) for name, array in self.crossing[0].items()}
        return Session(part(self._model, shapes, [str(value.name) for value in outputs], arrays))
