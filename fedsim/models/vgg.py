"""VGG11 in its 32×32 form: eight 3×3 convolutions with norm and ReLU, five poolings and one linear head.

Source  Simonyan, Zisserman, "Very deep convolutional networks for large-scale image recognition", ICLR 2015,
        table 1, column A; Zhao, Mopuri, Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021,
        section 4 (pool).
Code    VICO-UoE/DatasetCondensation `networks.py` (MIT): norm after each convolution (instance, or batch as
        VGG11BN), no hidden fully connected layer; a one-channel input is padded by 3 in the first
        convolution.
Differs images of 28 to 31 are padded by 3 whatever their channels, since five poolings need 32; the head is
        sized by the images; the pool's last 1×1 average pooling is the identity and left out.
"""

from __future__ import annotations

from typing import Literal

from torch import nn

from fedsim.config import Section
from fedsim.models.network import Network, require_side
from fedsim.models.norms import Norm, norm_layer

LAYOUT = (
    (64, True),
    (128, True),
    (256, False),
    (256, True),
    (512, False),
    (512, True),
    (512, False),
    (512, True),
)
"""Channels of each convolution and whether a 2×2 max pooling follows."""


class Config(Section):
    """Settings of VGG11."""

    name: Literal["vgg11"] = "vgg11"
    norm: Norm = "instance"
    """Normalisation after each convolution; `group` has 4 groups."""


class VGG11(Network):
    """Eight convolution blocks for images of shape (c, h, w), h and w from 28."""

    Config = Config

    def __init__(self, config: Config, image_shape: tuple[int, int, int], num_classes: int) -> None:
        channels, height, width = image_shape
        require_side(config.name, image_shape, 28)
        blocks: list[nn.Module] = []
        for index, (planes, pooled) in enumerate(LAYOUT):
            padding = 3 if index == 0 and (channels == 1 or min(height, width) < 32) else 1
            height, width = height + 2 * padding - 2, width + 2 * padding - 2
            block = nn.Sequential(
                nn.Conv2d(channels, planes, 3, padding=padding),
                norm_layer(config.norm, planes, (height, width)),
                nn.ReLU(),
            )
            if pooled:
                block.append(nn.MaxPool2d(2))
                height, width = height // 2, width // 2
            blocks.append(block)
            channels = planes
        super().__init__(blocks, channels * height * width, num_classes)
