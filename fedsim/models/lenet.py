"""LeNet: the ReLU form of the condensation pool, and the sigmoid form of the first gradient inversion attack.

Source  LeCun, Bottou, Bengio, Haffner, "Gradient-based learning applied to document recognition", 1998;
        `LeNetDLG`: Zhu, Liu, Han, "Deep Leakage from Gradients", NeurIPS 2019, section 4 (twice
        differentiable: strides instead of pooling, sigmoid instead of ReLU).
Code    VICO-UoE/DatasetCondensation `networks.py` (MIT): 5×5 convolutions of 6 and 16 channels, 2×2 max
        pooling, then 120 and 84 units; a one-channel input is padded by 2 in the first convolution, so that
        28×28 ends as 5×5.
        mit-han-lab/dlg `models/vision.py` (facts only): 5×5 convolutions of 12 channels, padding 2, strides
        2, 2, 1; every weight and bias from U(−0.5, 0.5).
Differs layers after the convolutions are sized by the images (the references fix 400 and 768 inputs).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from pydantic import Field
from torch import nn

from fedsim.config import Section
from fedsim.models.network import Network, draw_uniform, require_side


class LeNetConfig(Section):
    """Settings of LeNet: the architecture is fixed."""

    name: Literal["lenet"] = "lenet"


class LeNet(Network):
    """Two convolution and two fully connected blocks for images of shape (c, h, w).

    h and w are at least 16, or 12 with one channel.
    """

    Config = LeNetConfig

    def __init__(self, config: LeNetConfig, image_shape: tuple[int, int, int], num_classes: int) -> None:
        channels, height, width = image_shape
        padding = 2 if channels == 1 else 0
        require_side(config.name, image_shape, 16 - 2 * padding)
        flat = 16 * _pooled_side(height + 2 * padding) * _pooled_side(width + 2 * padding)
        blocks = [
            nn.Sequential(nn.Conv2d(channels, 6, 5, padding=padding), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Sequential(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Sequential(nn.Flatten(), nn.Linear(flat, 120), nn.ReLU()),
            nn.Sequential(nn.Linear(120, 84), nn.ReLU()),
        ]
        super().__init__(blocks, 84, num_classes)


def _pooled_side(padded: int) -> int:
    """Side after two rounds of a 5×5 convolution without padding and a 2×2 pooling."""
    return ((padded - 4) // 2 - 4) // 2


class LeNetDLGConfig(Section):
    """Settings of LeNetDLG."""

    name: Literal["lenet_dlg"] = "lenet_dlg"
    depth: int = Field(default=3, ge=1)
    """Number of convolutions; the first two have stride 2, all further ones stride 1."""


class LeNetDLG(Network):
    """Convolutions with sigmoid for images of shape (c, h, w) of any size; one block per convolution."""

    Config = LeNetDLGConfig

    def __init__(self, config: LeNetDLGConfig, image_shape: tuple[int, int, int], num_classes: int) -> None:
        channels, height, width = image_shape
        blocks: list[nn.Module] = []
        for index in range(config.depth):
            stride = 2 if index < 2 else 1
            blocks.append(nn.Sequential(nn.Conv2d(channels, 12, 5, padding=2, stride=stride), nn.Sigmoid()))
            channels, height, width = 12, math.ceil(height / stride), math.ceil(width / stride)
        super().__init__(blocks, channels * height * width, num_classes)

    def reset(self, rng: torch.Generator) -> None:
        """Draw every weight and bias from U(−0.5, 0.5), far wider than torch's default, as in the attack."""
        for parameter in self.parameters():
            draw_uniform(parameter, 0.5, rng)
