"""MLP: fully connected layers with ReLU, and a head.

Source  Zhao, Mopuri, Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021, section 4
        (cross-architecture pool).
Code    VICO-UoE/DatasetCondensation `networks.py` (MIT): two hidden layers of 128 units.
Differs width and depth are settings, and the input size is the images' own (the pool fixes 1×28×28 and
        3×32×32).
"""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field
from torch import nn

from fedsim.config import Section
from fedsim.models.network import Network


class Config(Section):
    """Settings of MLP."""

    name: Literal["mlp"] = "mlp"
    depth: int = Field(default=2, ge=1)
    """Number of hidden layers."""
    width: int = Field(default=128, ge=1)
    """Units of every hidden layer."""


class MLP(Network):
    """`depth` hidden layers of `width` units for images of shape (c, h, w); one block per hidden layer."""

    Config = Config

    def __init__(self, config: Config, image_shape: tuple[int, int, int], num_classes: int) -> None:
        sizes = [math.prod(image_shape)] + [config.width] * config.depth
        blocks = [
            nn.Sequential(nn.Flatten(), nn.Linear(size, config.width), nn.ReLU()) for size in sizes[: config.depth]
        ]
        super().__init__(blocks, config.width, num_classes)
