"""Small networks with weights of uneven channels, and the steps of a run on them."""

from __future__ import annotations

from collections.abc import Mapping

import graphs
import numpy as np
import onnx
import torch

from calibration.dataset import fit
from calibration.sources import open_data
from ptq.cache import opened
from ptq.model.graph import Model
from ptq.pipeline.ready import executions_of
from ptq.pipeline.stages import Stages
from ptq.pipeline.steps import Steps
from ptq.qtensor import QTensor
from ptq.recipe import Recipe
from ptq.solve import Curvature

RNG = np.random.default_rng(5)
WHEN = {"before": "change", "after": "shifts"}


def uneven(*shape: int, axis: int = 0) -> np.ndarray:
    """A weight whose rows, or what the axis is, differ much in size."""
    sizes = np.exp(RNG.normal(0, 1.5, shape[axis])).reshape([-1 if at == axis else 1 for at in range(len(shape))])
    return (RNG.normal(0, 0.3, shape) * sizes).astype(np.float32)


def images(nodes: str, weights: Mapping[str, np.ndarray], out: str = "n, 6, 8, 8") -> onnx.ModelProto:
    return graphs.with_arrays(nodes, "float[n, 4, 8, 8] x", f"float[{out}] y", weights)


NETWORKS: dict[str, onnx.ModelProto] = {
    "residual": graphs.residual(),
    "gates": graphs.gates(),
    "separable": images(
        """
        a = Conv (x, w0, b0)
        b = Relu (a)
        c = Conv <pads = [1, 1, 1, 1], group = 8> (b, w1, b1)
        d = LeakyRelu (c)
        e = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (d)
        y = Conv <group = 2> (e, w2, b2)
        """,
        {
            "w0": uneven(8, 4, 1, 1), "b0": uneven(8), "w1": uneven(8, 1, 3, 3), "b1": uneven(8),
            "w2": uneven(6, 4, 1, 1), "b2": uneven(6),
        },
        "n, 6, 4, 4",
    ),
    "flattened": images(
        """
        a = Conv (x, w0, b0)
        b = PRelu (a, slope)
        c = AveragePool <kernel_shape = [4, 4], strides = [4, 4]> (b)
        d = Flatten (c)
        e = Gemm <transB = 1> (d, w1, b1)
        f = Relu (e)
        y = Gemm (f, w2, b2)
        """,
        {
            "w0": uneven(5, 4, 1, 1), "b0": uneven(5), "slope": np.full((1, 1, 1), 0.2, np.float32),
            "w1": uneven(7, 20), "b1": uneven(7), "w2": uneven(7, 6), "b2": uneven(6),
        },
        "n, 6",
    ),
    "tokens": graphs.with_arrays(
        """
        n = LayerNormalization <axis = -1> (x, gamma, beta)
        g0 = MatMul (n, w0)
        g = Sigmoid (g0)
        u0 = MatMul (n, w1)
        u = Add (b1, u0)
        m = Mul (g, u)
        d0 = MatMul (m, w2)
        d = Add (d0, b2)
        r = Add (d, x)
        e0 = MatMul (r, w3)
        e1 = Add (e0, b3)
        e = Gelu (e1)
        f0 = MatMul (e, w4)
        y = Add (f0, b4)
        """,
        "float[n, t, 24] x",
        "float[n, t, 24] y",
        {
            "gamma": uneven(24), "beta": uneven(24), "w0": uneven(24, 40), "w1": uneven(24, 40, axis=1),
            "b1": uneven(40), "w2": uneven(40, 24), "b2": uneven(24), "w3": uneven(24, 48), "b3": uneven(48),
            "w4": uneven(48, 24), "b4": uneven(24),
        },
    ),
}  # fmt: skip


def feeds(proto: onnx.ModelProto, count: int = 24) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(9)
    (value,) = proto.graph.input
    sizes = [dim.dim_value or 10 for dim in value.type.tensor_type.shape.dim][1:]
    scale = np.exp(rng.normal(0, 1, sizes[-1])) if len(sizes) == 2 else np.ones(sizes[-1])
    return {value.name: (rng.normal(0.3, 1, (count, *sizes)) * scale).astype(np.float32)}


def steps(model: Model, data: Mapping[str, np.ndarray], *names: str, **options: object) -> Steps:
    """The steps as a run has them."""
    recipe = Recipe.of({"method": "rtn", "weights": "int4", "steps": names, **options})
    found = fit(open_data(data, None, "--data"), model.inputs)
    plan = recipe.plan(model.sites, has_data=True)
    return Steps(plan, executions_of(model, plan), found, Stages(), opened(), [])


def quantized(model: Model, made: Steps) -> dict[str, QTensor]:
    """The weights of the plan, each rounded by itself."""
    found = {}
    for site in model.sites:
        method = made.plan.methods[site.name]
        assert method is not None
        weight = torch.from_numpy(model.matrix(site).copy()).reshape(site.groups, -1, site.columns)
        ladder = method.ladder(weight, Curvature.unknown(site.groups, site.columns))
        found[site.name] = ladder.pick(ladder.all_on(0))
    return found
