"""What a graph says about its own tensors while it runs."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graphs import attention, gates, model, residual, spatial

from calibration.batch import Batch
from ptq.errors import DataError
from ptq.model.graph import Model
from ptq.model.probe import extremes, probed, sampled_as
from ptq.pipeline.calibrate import calibrate

FREE = "float[n, 3, h, w] x"


def free_size() -> onnx.ModelProto:
    """A convolution of images of any size."""
    return model("a0 = Conv (x, w0)\n a = Relu (a0)\n y = Conv (a, w1)", FREE, "float[n, 2, h, w] y",
                 {"w0": (4, 3, 1, 1), "w1": (2, 4, 1, 1)})  # fmt: skip


NETS = [residual, gates, attention, free_size, lambda: spatial(1), lambda: spatial(2), lambda: spatial(3)]


def prepared(proto: onnx.ModelProto) -> Model:
    return Model.of(ir.from_proto(proto))


def numbers(found: Model, count: int = 5) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(1)
    return {
        spec.name: rng.normal(-0.3, 2.0, (count, *(n if isinstance(n, int) else 9 for n in (spec.shape or ())[1:])))
        .astype(spec.dtype)
        for spec in found.inputs
    }  # fmt: skip


def floats(found: Model) -> list[str]:
    values = [*found.graph.graph.inputs, *(value for node in found.graph.graph for value in node.outputs)]
    return [str(value.name) for value in values if value.dtype == ir.DataType.FLOAT and value.shape is not None]


@pytest.mark.parametrize("net", NETS)
def test_extremes_are_exact_and_samples_are_numbers_of_the_tensor(net) -> None:
    found = prepared(net())
    feeds, names = numbers(found), floats(found)
    whole = found.session(names)
    truth = dict(zip(whole.outputs, whole.run(feeds), strict=True)) | feeds
    session = probed(found.graph, names, (), names, per_sample=20)
    seen = dict(zip(session.outputs, session.run(feeds), strict=True))
    for name in names:
        low, high = extremes(name)
        array = truth[name]
        np.testing.assert_allclose(seen[high], array.max(), rtol=1e-5, atol=1e-6)
        if low in seen:
            np.testing.assert_allclose(seen[low], array.min(), rtol=1e-5, atol=1e-6)
        else:
            assert array.min() >= 0
        some = seen[sampled_as(name)].reshape(-1)
        assert 0 < some.size <= array.size
        distance = np.abs(some[:, None] - array.reshape(1, -1)).min(1)
        assert distance.max() <= 1e-5 * max(1, np.abs(array).max())


def test_images_of_known_size_are_thinned_in_the_graph() -> None:
    found = prepared(model("y = Conv (x, w)", "float[n, 4, 32, 32] x", "float[n, 4, 32, 32] y", {"w": (4, 4, 1, 1)}))
    session = probed(found.graph, ["x", "y"], (), ["x", "y"], per_sample=256)
    feeds = numbers(found, 3)
    some = dict(zip(session.outputs, session.run(feeds), strict=True))[sampled_as("x")]
    np.testing.assert_array_equal(some, feeds["x"][:, :, ::4, ::4])


def test_only_what_cannot_be_negative_has_no_least_number() -> None:
    found = prepared(
        model(
            """
            low = Constant <value_float = -1.0> ()
            zero = Constant <value_float = 0.0> ()
            a = Conv (x, w)
            b = Clip (a, low)
            c = Clip (b, zero)
            d = Clip (c)
            y = Relu (d)
            """,
            "float[n, 2, 4, 4] x",
            "float[n, 2, 4, 4] y",
            {"w": (2, 2, 1, 1)},
        )
    )
    names = floats(found)
    outputs = probed(found.graph, names).outputs
    without = [name for name in names if extremes(name)[0] not in outputs]
    values = {str(value.name): value for node in found.graph.graph for value in node.outputs}
    assert [values[name].producer().op_type for name in without] == ["Clip", "Relu"]
    assert values[without[0]].producer().inputs[1].name == "zero"


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("rule", ["minmax", "percentile"])
def test_activations_that_are_not_finite_are_refused(bad: float, rule: str) -> None:
    found = prepared(residual())
    arrays = {site.weight: found.initializer(site.weight).copy() for site in found.sites[:1]}
    for array in arrays.values():
        array[0, 0, 0, 0] = bad
    broken = found.with_initializers(arrays)
    with pytest.raises(DataError, match="not finite; check the data and the model"):
        calibrate(broken, [], floats(broken), rule, [Batch(numbers(broken))])
