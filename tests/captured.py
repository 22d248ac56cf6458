"""What tests of capture ask of a graph: its inputs, and that it computes what torch computes."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor, nn

from ptq.model.graph import Model
from ptq.model.session import Session


def same_as_torch(graph: ir.Model, module: nn.Module, feeds: Mapping[str, np.ndarray]) -> None:
    with torch.no_grad():
        expected = module(*(torch.from_numpy(array) for array in feeds.values())).numpy()
    (got,) = Session(graph).run(feeds)
    assert got.shape == expected.shape
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)


def specs(graph: ir.Model) -> list[str]:
    return [str(spec) for spec in Model(graph).inputs]


def traced(module: nn.Module, *inputs: Tensor) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, its files are not gone
        return torch.jit.trace(module, inputs)


def scripted(module: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return torch.jit.script(module)
