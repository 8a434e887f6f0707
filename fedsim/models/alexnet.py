"""AlexNet in its 32×32 form: five convolutions, three poolings and a linear head.

Source  Krizhevsky, Sutskever, Hinton, "ImageNet classification with deep convolutional neural networks",
        NeurIPS 2012; Zhao, Mopuri, Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021, section 4
        (cross-architecture pool).
Code    VICO-UoE/DatasetCondensation `networks.py` (MIT): no norm, no dropout; 5×5 convolutions of 128 and 192
        channels, 3×3 ones of 256, 192 and 192; a one-channel input is padded by 4 in the first, so that 28×28
        becomes 32×32.
Differs the head is sized by the images (the pool fixes 3072 inputs); one-channel images under 28 are padded
        by 2.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from fedsim.config import Section
from fedsim.models.network import Network, require_side


class Config(Section):
    """Settings of AlexNet: the architecture is fixed."""

    name: Literal["alexnet"] = "alexnet"


class AlexNet(Network):
    """Five blocks for images of shape (c, h, w), h and w from 8; blocks 1, 2 and 5 end in 2×2 max pooling."""

    Config = Config

    def __init__(self, config: Config, image_shape: tuple[int, int, int], num_classes: int) -> None:
        channels, height, width = image_shape
        require_side(config.name, image_shape, 8)
        padding = 4 if channels == 1 and height >= 28 else 2
        blocks = [
            nn.Sequential(nn.Conv2d(channels, 128, 5, padding=padding), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Sequential(nn.Conv2d(128, 192, 5, padding=2), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Sequential(nn.Conv2d(192, 256, 3, padding=1), nn.ReLU()),
            nn.Sequential(nn.Conv2d(256, 192, 3, padding=1), nn.ReLU()),
            nn.Sequential(nn.Conv2d(192, 192, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        ]
        grown = 2 * padding - 4
        super().__init__(blocks, 192 * ((height + grown) // 8) * ((width + grown) // 8), num_classes)
