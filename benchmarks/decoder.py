"""A decoder of a language model as large as wanted, with random weights, as ONNX with its weights in a file beside it.

The weights are drawn and written one by one, so that a decoder larger than memory can be made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

_ALIGNED = 4096
_PIECE = 1 << 24
_SPREAD = 0.02


@dataclass(frozen=True)
class Decoder:
    """The sizes of a decoder: RMSNorm, causal attention, a gated feed-forward part, its own last layer."""

    layers: int
    width: int
    hidden: int
    heads: int
    words: int

    @property
    def weights(self) -> int:
        """How many weights its matrices have."""
        return self.layers * (4 * self.width**2 + 3 * self.width * self.hidden) + 2 * self.words * self.width

    @property
    def largest(self) -> int:
        """How many weights its largest matrix has."""
        return max(self.words * self.width, self.width * self.hidden)


SIZES = {
    "tiny": Decoder(2, 64, 160, 4, 512),
    "small": Decoder(12, 768, 2048, 12, 8000),
    "1b": Decoder(18, 2048, 5504, 16, 32000),
    "3b": Decoder(26, 3072, 8192, 24, 32000),
    "7b": Decoder(32, 4096, 11008, 32, 32000),
}
"""Decoders by about how many weights they have; the large ones are as wide as LLaMA's (arXiv:2302.13971, table 2)."""


def write(decoder: Decoder, path: Path, seed: int = 0) -> None:
    """Write a decoder as `path`, and its weights as the same with `.data` behind."""
    with Path(f"{path}.data").open("wb") as data:
        graph = _Graph(decoder, data, np.random.default_rng(seed))
        graph.build()
    model = helper.make_model(
        helper.make_graph(
            graph.nodes,
            "decoder",
            [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "tokens", decoder.words])],
            graph.tensors,
        ),
        opset_imports=[helper.make_opsetid("", 21)],
        ir_version=10,
    )
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = f"{path.name}.data"
    onnx.save(model, path)


class _Graph:
    """Nodes and weights as they are made."""

    def __init__(self, decoder: Decoder, data: BinaryIO, draws: np.random.Generator) -> None:
        self._decoder, self._data, self._draws = decoder, data, draws
        self.nodes: list[NodeProto] = []
        self.tensors: list[TensorProto] = []

    def build(self) -> None:
        decoder = self._decoder
        self._constant("two", np.array(2.0, np.float32))
        self._constant("small", np.array(1e-5, np.float32))
        self._constant("last", np.array([-1]))
        self._constant("heads", np.array([0, 0, decoder.heads, decoder.width // decoder.heads]))
        self._constant("joined", np.array([0, 0, decoder.width]))
        self._constant("root", np.array((decoder.width / decoder.heads) ** -0.5, np.float32))
        mask = self._mask()
        hidden = self._call("Gather", self._weight("embedding", decoder.words, decoder.width), "input_ids")
        for number in range(decoder.layers):
            hidden = self._block(f"layers.{number}", hidden, mask)
        head = self._weight("head", decoder.width, decoder.words)
        self._call("MatMul", self._norm("norm", hidden), head, output="logits")

    def _block(self, name: str, hidden: str, mask: str) -> str:
        width, inner = self._decoder.width, self._decoder.hidden
        x = self._norm(f"{name}.before", hidden)
        query, key, value = (self._heads(f"{name}.{part}", x) for part in ("q", "k", "v"))
        turned = self._call("Transpose", key, perm=[0, 1, 3, 2])
        scores = self._call("Mul", self._call("MatMul", query, turned), "root")
        seen = self._call("Softmax", self._call("Add", scores, mask), axis=-1)
        mixed = self._call("Transpose", self._call("MatMul", seen, value), perm=[0, 2, 1, 3])
        joined = self._call("Reshape", mixed, "joined")
        hidden = self._call("Add", hidden, self._product(f"{name}.o", joined, width, width))
        x = self._norm(f"{name}.behind", hidden)
        gate = self._product(f"{name}.gate", x, width, inner)
        gated = self._call("Mul", gate, self._call("Sigmoid", gate))
        wide = self._call("Mul", gated, self._product(f"{name}.up", x, width, inner))
        return self._call("Add", hidden, self._product(f"{name}.down", wide, inner, width))

    def _mask(self) -> str:
        """What is added to scores so that no word sees those behind it."""
        self._constant("one", np.array([1]))
        self._constant("never", np.array([-1e9], np.float32))
        length = self._call("Slice", self._call("Shape", "input_ids"), "one", self._constant("end", np.array([2])))
        square = self._call("Expand", "never", self._call("Concat", length, length, axis=0))
        return self._call("Trilu", square, self._constant("above", np.array(1)), upper=1)

    def _heads(self, name: str, x: str) -> str:
        made = self._product(name, x, self._decoder.width, self._decoder.width)
        return self._call("Transpose", self._call("Reshape", made, "heads"), perm=[0, 2, 1, 3])

    def _norm(self, name: str, x: str) -> str:
        scale = self._constant(f"{name}.scale", np.ones(self._decoder.width, np.float32))
        power = self._call("ReduceMean", self._call("Pow", x, "two"), "last")
        root = self._call("Sqrt", self._call("Add", power, "small"))
        return self._call("Mul", self._call("Div", x, root), scale)

    def _product(self, name: str, x: str, inputs: int, outputs: int) -> str:
        return self._call("MatMul", x, self._weight(f"{name}.weight", inputs, outputs))

    def _call(self, op: str, *inputs: str, output: str | None = None, **attributes: int | Sequence[int]) -> str:
        made = output or f"{op.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [made], made, **attributes))
        return made

    def _constant(self, name: str, array: np.ndarray) -> str:
        self.tensors.append(onnx.numpy_helper.from_array(array, name))
        return name

    def _weight(self, name: str, rows: int, columns: int) -> str:
        self._data.write(bytes(-self._data.tell() % _ALIGNED))
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=(rows, columns))
        tensor.data_location = TensorProto.EXTERNAL
        said = {"location": "", "offset": self._data.tell(), "length": 4 * rows * columns}
        for key, value in said.items():
            tensor.external_data.add(key=key, value=str(value))
        for start in range(0, rows * columns, _PIECE):
            size = min(_PIECE, rows * columns - start)
            self._data.write((self._draws.standard_normal(size, np.float32) * np.float32(_SPREAD)).data)
        self.tensors.append(tensor)
        return name
