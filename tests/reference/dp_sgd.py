"""DP-SGD as a literal loop: one record at a time, one weight tensor at a time, and a small private problem."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fedsim.data.images import Images
from fedsim.models.network import Network
from fedsim.privacy.dp_sgd import DPSGD, Config
from fedsim.privacy.noise import Noise, SeededNoise
from fedsim.seeding import stream
from fedsim.training.train import TrainConfig
from tests.reference import dm as loops

TRAINING = TrainConfig(epochs=1, lr=0.5, momentum=0.0, weight_decay=0.0, schedule="constant")
BOUND = 20
"""The public bound on records."""


class Silent(SeededNoise):
    """Coins as from the stream, and no noise."""

    def normal(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64)


def noise(*purpose: Any, kind: type[SeededNoise] = SeededNoise) -> SeededNoise:
    return kind(stream(0, *purpose))


def agreed(**settings: Any) -> DPSGD:
    terms: dict[str, Any] = {"public_bound": BOUND, "sigma": 0.7, "rate": 0.5, "clip": 0.3, "steps": 3}
    return DPSGD(Config(**(terms | {"noise": "seeded"} | settings)), 3)


def trained(
    one: DPSGD, source: Noise, counts: tuple[int, ...] = (4, 0, 1, 3), training: TrainConfig = TRAINING
) -> Tensor:
    """Weights after the library's steps, as one vector."""
    network = loops.convnet()
    one.train(network, loops.images(counts), loops.NORMALISE, training, source)
    return vector(network)


def vector(network: Network) -> Tensor:
    return torch.cat([value.detach().reshape(-1) for value in network.parameters()])


def gradient(network: Network, images: Images, row: int) -> list[Tensor]:
    """∇ℓ of one record."""
    network.zero_grad()
    logits = network(loops.NORMALISE(images.pixels[row : row + 1]))
    F.cross_entropy(logits, images.labels[row : row + 1]).backward()
    return [value.grad.clone() for value in network.parameters() if value.grad is not None]


def literal(
    network: Network, images: Images, source: Noise, *,
    steps: int, rate: float, clip: float, sigma: float, divisor: float, lr: float,
) -> None:  # fmt: skip
    """Algorithm 1: Poisson batch, clip each, sum, noise, divide, step."""
    for _ in range(steps):
        rows = torch.nonzero(source.chosen(len(images), rate)).flatten().tolist() if rate < 1 else range(len(images))
        totals = [torch.zeros_like(value) for value in network.parameters()]
        for row in rows:
            parts = gradient(network, images, row)
            norm = math.sqrt(sum(float(entry) ** 2 for part in parts for entry in part.reshape(-1)))
            totals = [total + part * min(1.0, clip / norm) for total, part in zip(totals, parts, strict=True)]
        drawn = source.normal(sum(total.numel() for total in totals))
        place = 0
        for weights, total in zip(network.parameters(), totals, strict=True):
            own = drawn[place : place + total.numel()].view(total.shape)
            place += total.numel()
            with torch.no_grad():
                weights.sub_(lr * (total + sigma * clip * own) / divisor)
