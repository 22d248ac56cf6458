"""Small networks with fixed weights, for tests of everything that reads or runs a model."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from torch import Tensor, nn


class Convolutions(nn.Module):
    """Two convolutions with BatchNorm, dropout, pooling and a linear layer: `(n, 3, 8, 8)` to `(n, 5)`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.depthwise = nn.Conv2d(6, 6, 3, groups=6, bias=False)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(6, 5)

    def forward(self, image: Tensor) -> Tensor:
        x = self.norm(self.stem(image)).relu()
        return self.head(self.drop(self.depthwise(x).mean((2, 3))))


class Tokens(nn.Module):
    """An embedding, self-attention and a masked mean: `(n, s)` ids and mask to `(n, 4)`."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(20, 8)
        self.query = nn.Linear(8, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        x = self.embedding(ids)
        x = x + torch.softmax(self.query(x) @ x.transpose(1, 2), -1) @ x
        weight = mask.unsqueeze(-1).float()
        return self.head((x * weight).sum(1) / weight.sum(1))


class Multilayer(nn.Module):
    """Two linear layers: `(n, 4)` to `(n, 3)`."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.second = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x).tanh())


class FixedBatch(nn.Module):
    """A linear layer that only takes two samples at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x).reshape(2, 3)


def seeded(kind: type[nn.Module]) -> nn.Module:
    """A network of a kind, in evaluation mode, always with the same weights; BatchNorm has seen something."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = kind()
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d):
                part.running_mean.normal_()
                part.running_var.uniform_(0.5, 2)
    return module.eval()


def convolutions() -> nn.Module:
    """What `--model tiny_models:convolutions` makes: its weights are not yet the trained ones."""
    return Convolutions()


def images(count: int, seed: int = 0) -> np.ndarray:
    """Samples for `Convolutions`."""
    return np.random.default_rng(seed).normal(size=(count, 3, 8, 8)).astype(np.float32)


def sentences(count: int, length: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Samples for `Tokens`."""
    generator = np.random.default_rng(seed)
    mask = (generator.random((count, length)) < 0.7).astype(np.int64)
    mask[:, 0] = 1
    return {"ids": generator.integers(0, 20, (count, length)), "mask": mask}


def matmul_onnx() -> onnx.ModelProto:
    """`y = x w`, `(batch, 4)` to `(batch, 3)`, as an ONNX model."""
    weight = np.arange(12, dtype=np.float32).reshape(4, 3) / 8
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])],
        "matmul",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["batch", 4])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["batch", 3])],
        [onnx.numpy_helper.from_array(weight, "w")],
    )
    return onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 21)])
