"""A model: a prepared ONNX graph, its sites, and runs of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx_ir as ir

from calibration.spec import InputSpec
from ptq.errors import ModelError
from ptq.model.prepare import prepare
from ptq.model.session import Session
from ptq.model.sites import Site, constant, find_sites
from ptq.model.streamed import Streamed


@dataclass(frozen=True)
class Model:
    """A prepared graph, never changed in place."""

    graph: ir.Model

    @classmethod
    def of(cls, graph: ir.Model) -> Model:
        """A model of a graph as it came from a file or an exporter."""
        return cls(prepare(graph))

    @cached_property
    def sites(self) -> tuple[Site, ...]:
        """What can be quantized, in the order of execution."""
        return find_sites(self.graph.graph)

    @property
    def inputs(self) -> tuple[InputSpec, ...]:
        """What has to be fed."""
        return tuple(_spec(value) for value in self.graph.graph.inputs)

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs that are tensors of numbers; others are nothing to compare."""
        return tuple(str(value.name) for value in self.graph.graph.outputs if may_be_numbers(value))

    @property
    def data_files(self) -> frozenset[Path]:
        """Files besides the model's own that hold its weights."""
        values = (value.const_value for graph in self.graph.graphs() for value in graph.initializers.values())
        return frozenset(Path(tensor.path) for tensor in values if isinstance(tensor, ir.ExternalTensor))

    @property
    def site_weights(self) -> Mapping[str, int]:
        """The initializers that sites stand for, with their bytes: two for a table that is a last weight too."""
        nodes = {str(node.name): node for node in self.graph.graph}
        read = [nodes[use.node].inputs[use.slot] for site in self.sites for use in site.uses]
        return {str(value.name): value.const_value.nbytes for value in read if value is not None and value.const_value}

    @property
    def other_weights(self) -> tuple[tuple[str, int, str], ...]:
        """Float32 matrices that no site has: names, numbers of weights, and the operators that read them."""
        known = {*self.site_weights, *(use.bias for site in self.sites for use in site.uses)}
        return tuple(
            (name, value.const_value.size, next((node.op_type for node in value.consumers()), "no operator"))
            for name, value in self.graph.graph.initializers.items()
            if value.const_value is not None and name not in known
            if value.dtype == ir.DataType.FLOAT and len(value.const_value.shape) > 1
        )

    def initializer(self, name: str) -> np.ndarray:
        """The array of an initializer."""
        array = constant(self.graph.graph.initializers.get(name))
        if array is None:
            raise ModelError(f"the graph has no initializer {name!r}")
        return array

    def is_streamed(self, name: str) -> bool:
        """Whether an initializer is read from its file each time."""
        value = self.graph.graph.initializers.get(name)
        return value is not None and isinstance(value.const_value, Streamed)

    def shape(self, name: str) -> tuple[int | None, ...] | None:
        """The sizes of a tensor as far as they are known, None when not even their number is."""
        value = self._values.get(name)
        if value is None or value.shape is None:
            return None
        return tuple(size if isinstance(size, int) else None for size in value.shape)

    @cached_property
    def _values(self) -> dict[str, ir.Value]:
        graph = self.graph.graph
        return {str(v.name): v for v in (*graph.inputs, *(out for node in graph for out in node.outputs))}

    def matrix(self, site: Site) -> np.ndarray:
        """A site's weight, `(out, in)`."""
        return site.matrix(self.initializer(site.weight))

    def has_own_weight(self, site: Site) -> bool:
        """Whether one use of a site is all that quantizes its weight, and the graph does not give it out."""
        alone = len(site.uses) == 1 and [other.weight for other in self.sites].count(site.weight) == 1
        return alone and not self.graph.graph.initializers[site.weight].is_graph_output()

    def has_own_bias(self, site: Site) -> bool:
        """Whether a site has a bias that nothing else uses."""
        biases = [use.bias for other in self.sites for use in other.uses]
        name = site.uses[0].bias
        if name is None or len(site.uses) > 1 or biases.count(name) > 1:
            return False
        bias = self.graph.graph.initializers[name]
        return len(bias.uses()) == 1 and not bias.is_graph_output()

    def with_initializers(self, arrays: Mapping[str, np.ndarray]) -> Model:
        """A copy that holds other numbers under the same names."""
        copy = self.graph.clone()
        replace_initializers(copy.graph, arrays)
        return Model(copy)

    def session(self, taps: Sequence[str] = ()) -> Session:
        """A session that also gives the tensors named in `taps`."""
        return Session(with_outputs(self.graph, taps) if taps else self.graph)


def replace_initializers(graph: ir.Graph, arrays: Mapping[str, np.ndarray]) -> None:
    """Put other numbers under the same names."""
    for name, array in arrays.items():
        graph.initializers[name].const_value = ir.tensor(np.ascontiguousarray(array), name=name)


def with_outputs(model: ir.Model, names: Sequence[str]) -> ir.Model:
    """A copy of a graph with more outputs; names that are already outputs, and inputs, are left out."""
    copy = model.clone()
    present = {value.name for value in (*copy.graph.outputs, *copy.graph.inputs)}
    values = {value.name: value for node in copy.graph for value in node.outputs}
    copy.graph.outputs.extend(values[name] for name in dict.fromkeys(names) if name not in present)
    return copy


def may_be_numbers(value: ir.Value) -> bool:
    """Whether a value is a tensor of numbers, or of a type that is not known."""
    return value.type is None or (isinstance(value.type, ir.TensorType) and value.dtype != ir.DataType.STRING)


def _spec(value: ir.Value) -> InputSpec:
    if value.dtype is None or not may_be_numbers(value):
        raise ModelError(f"the input {value.name!r} of the model is no tensor of numbers; only such can be fed")
    dims = None if value.shape is None else tuple(d if isinstance(d, int) else d.value for d in value.shape)
    return InputSpec(str(value.name), value.dtype.numpy().name, dims)
