"""Small float graphs that Hypothesis draws: valid ONNX that stock ONNX Runtime runs, with samples to calibrate on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import random_functions  # noqa: F401  (it registers operators)
import random_moves  # noqa: F401  (it registers operators)
from hypothesis import assume
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy
from onnx import helper, numpy_helper
from random_drafts import Arrays, Draft, Shape, grow
from random_layers import LAYERS, look_up

from ptq.errors import ModelError
from ptq.model.session import Session

SAMPLES = 8
SIZES = (1, 2, 3, 4, 5, 7, 8)
CHANNELS = (1, 2, 3, 4, 5, 6, 8, 12, 16, 32)
_LARGEST = 1e4
_IR_VERSION = 10
_TABLE = 20


@dataclass(frozen=True, eq=False)
class Drawn:
    """A float model, samples by input, and what it makes of them; `batch` samples at a time where that is fixed."""

    model: onnx.ModelProto
    feeds: Arrays
    batch: int | None
    outputs: Arrays

    def __repr__(self) -> str:
        """Without the weights."""
        bare = onnx.ModelProto()
        bare.CopyFrom(self.model)
        shapes = {tensor.name: list(tensor.dims) for tensor in bare.graph.initializer}
        del bare.graph.initializer[:]
        return (
            f"{onnx.printer.to_text(bare)}\nweights {shapes}, samples { ({k: v.shape for k, v in self.feeds.items()}) }"
        )

    def run(self, session: Session) -> Arrays:
        """The outputs of all samples."""
        step = self.batch or SAMPLES
        parts = [
            session.run({name: array[k : k + step] for name, array in self.feeds.items()})
            for k in range(0, SAMPLES, step)
        ]
        return {
            name: np.concatenate(each) for name, each in zip(session.outputs, zip(*parts, strict=True), strict=True)
        }


@st.composite
def graphs(draw: DrawFn, most: int = 10) -> Drawn:
    """Graphs of up to so many operators."""
    opset = draw(st.sampled_from((21, 20, 19, 18, 17, 16, 15, 14, 13, 12, 11)))
    fixed = draw(st.sampled_from((None, None, None, 1, 2, 4)))
    seed = draw(st.integers(0, 2**16))
    draft = Draft(draw, np.random.default_rng(seed), opset, fixed or SAMPLES, draw(st.booleans()))
    feeds: Arrays = {}
    for k in range(draw(st.sampled_from((1, 1, 1, 2)))):
        shape = _input_shape(draft)
        draft.shapes[f"x{k}"] = shape
        feeds[f"x{k}"] = _samples(draft, shape)
    if draft.often():
        feeds["ids"] = draft.rng.integers(0, _TABLE, (SAMPLES, draft.one_of(SIZES)))
        look_up(draft, "ids", feeds["ids"].shape[1], _TABLE)
    last = draft.one_of(list(draft.shapes))
    for step in range(draw(st.sampled_from(range(1, most + 1)))):
        source = draft.one_of(list(draft.shapes)) if step and draft.often() else last
        last = grow(draft, source, LAYERS if step == 0 or draft.coin() else ()) or last
    assume(draft.nodes)
    last = draft.nodes[-1].output[0]
    model = _model(draft, feeds, last, free=fixed is None)
    return _checked(model, feeds, fixed)


def _input_shape(draft: Draft) -> Shape:
    rank = draft.one_of((4, 4, 4, 2, 2, 3, 3, 5))
    sizes = [draft.one_of(SIZES[:4] if rank == 5 else SIZES) for _ in range(rank - 2)]
    channels = draft.one_of(CHANNELS[:5] if rank == 5 else CHANNELS)
    return (draft.batch, channels, *sizes) if rank > 3 else (draft.batch, *sizes, channels)


def _samples(draft: Draft, shape: Shape) -> np.ndarray:
    size = (SAMPLES, *shape[1:])
    kind = draft.one_of(("normal", "normal", "image", "shifted", "outlier", "zero"))
    x = draft.rng.standard_normal(size)
    if kind == "image":
        x = draft.rng.random(size)
    elif kind == "shifted":
        x = x * 0.1 + 3
    elif kind == "outlier":
        x.reshape(-1)[0] = 40
    elif kind == "zero":
        x *= 0
    return np.ascontiguousarray(x, np.float32)


def _model(draft: Draft, feeds: Arrays, last: str, *, free: bool) -> onnx.ModelProto:
    """The graph with `last`, perhaps other unread tensors and perhaps some that are read, as outputs."""
    read = {name for node in draft.nodes for name in node.input}
    made = [name for node in draft.nodes for name in node.output if name in draft.shapes and name != last]
    leaves = [name for name in made if name not in read]
    outputs = [last]
    if leaves and draft.coin():
        outputs += leaves[:3]
    between = [name for name in made if name in read]
    if between and draft.often():
        outputs.append(draft.one_of(between))
    loose = draft.often()
    batch = draft.one_of(("n", None)) if free else draft.batch
    given = [_value(name, array.dtype, batch, array.shape, sizes=not loose) for name, array in feeds.items()]
    sizes = [not loose and not draft.often() for _ in outputs]
    told = [_value(o, np.dtype("f4"), batch, draft.shapes[o], sizes=s) for o, s in zip(outputs, sizes, strict=True)]
    arrays, before = _dressed(draft)
    graph = helper.make_graph([*before, *draft.nodes], "drawn", given, told, arrays)
    return helper.make_model(graph, ir_version=_IR_VERSION, opset_imports=[helper.make_opsetid("", draft.opset)])


def _dressed(draft: Draft) -> tuple[list[onnx.TensorProto], list[onnx.NodeProto]]:
    """What is stored, and nodes that make what is read of it: Constants, or a Transpose or Identity of weights."""
    how = draft.one_of(("stored", "stored", "stored", "Constant", "Transpose", "Identity"))
    arrays, nodes = [], []
    for name, array in draft.stored.items():
        weight = name.endswith("weight")
        if how == "Constant":
            nodes.append(helper.make_node(how, [], [name], value=numpy_helper.from_array(array)))
        elif weight and how in ("Transpose", "Identity"):
            inner = array.T if how == "Transpose" else array
            arrays.append(numpy_helper.from_array(np.ascontiguousarray(inner), f"{name}/stored"))
            nodes.append(helper.make_node(how, [f"{name}/stored"], [name]))
        else:
            arrays.append(numpy_helper.from_array(array, name))
    return arrays, nodes


def _value(name: str, dtype: np.dtype, batch: Any, shape: Shape, *, sizes: bool) -> onnx.ValueInfoProto:
    """What is said of a tensor: its sizes, or only how many axes it has."""
    known: list[Any] = list(shape[1:]) if sizes else [None] * (len(shape) - 1)
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), [batch, *known])


def _checked(model: onnx.ModelProto, feeds: Arrays, batch: int | None) -> Drawn:
    """A model that counts: valid, run by stock ONNX Runtime with and without optimization, and with finite outputs."""
    onnx.checker.check_model(model, full_check=True)
    drawn = Drawn(model, feeds, batch, {})
    content = model.SerializeToString()
    try:
        plain = drawn.run(Session(content, optimize=False))
        optimized = drawn.run(Session(content))
    except ModelError:
        assume(condition=False)
    assume(all(np.isfinite(array).all() and np.abs(array).max() < _LARGEST for array in plain.values()))
    assume(all(np.allclose(array, optimized[name], rtol=1e-3, atol=1e-4) for name, array in plain.items()))
    return Drawn(model, feeds, batch, plain)


GRAPHS: SearchStrategy[Drawn] = graphs()
