"""What benchmarks/transfer_table.py trains on each data set, and how: chosen before any attack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fedsim.training.train import TrainConfig

CONDENSE: dict[str, Any] = {
    "iterations": 300, "optimiser": "adam", "lr": 0.2, "batch_real": 64, "networks": {"name": "pool", "size": 20},
}  # fmt: skip


@dataclass(frozen=True)
class Setup:
    """What is trained on a data set, and how."""

    records: int
    """Size of D."""
    convnet: dict[str, Any]
    resnet18: dict[str, Any]
    vit: dict[str, Any]
    training: dict[str, TrainConfig]
    """Of each victim on D; the surrogate `real` is trained as the ConvNet."""


def trained(epochs: int, lr: float = 0.01) -> TrainConfig:
    """Training on D: SGD with small batches."""
    return TrainConfig(epochs=epochs, lr=lr, batch_size=32)


SMALL = TrainConfig(epochs=300)
"""Training of surrogates on few images: the condensation papers' evaluation."""
RESIDUAL = {"name": "resnet18", "norm": "batch"}
SETUPS = {
    "digits": Setup(
        1297, {"name": "convnet", "depth": 2, "width": 16}, RESIDUAL,
        {"name": "vit", "patch": 2, "width": 32, "depth": 2},
        {"convnet": trained(15), "resnet18": trained(2), "vit": trained(20, 0.03)},
    ),
    "mnist": Setup(
        4000, {"name": "convnet", "depth": 3, "width": 16}, RESIDUAL,
        {"name": "vit", "patch": 7, "width": 48, "depth": 2},
        {"convnet": trained(5), "resnet18": trained(2), "vit": trained(20, 0.03)},
    ),
    "cifar10_small": Setup(
        2000, {"name": "convnet", "depth": 3, "width": 32}, RESIDUAL,
        {"name": "vit", "patch": 4, "width": 64, "depth": 3},
        {"convnet": trained(20), "resnet18": trained(10), "vit": trained(40, 0.03)},
    ),
}  # fmt: skip
VICTIMS = ("convnet", "resnet18", "vit")
TEST = 500
