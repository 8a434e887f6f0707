"""ConvNet of the condensation papers: depth × (convolution → norm → activation → pooling) and a linear head.

Source  Zhao, Mopuri, Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021, section 4 (ConvNet-3 of
        width 128, instance norm, ReLU, 2×2 average pooling); after Gidaris and Komodakis, CVPR 2018.
Code    VICO-UoE/DatasetCondensation `networks.py` (MIT): instance norm is GroupNorm with one channel per
        group and an affine; a one-channel input is padded by 3 in the first convolution, so that 28×28
        becomes 32×32.
Differs depth is bounded by the image size with a clear error instead of an empty feature map.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn

from fedsim.config import Section
from fedsim.models.network import Network
from fedsim.models.norms import Norm, norm_layer
from fedsim.types import UserError


class Config(Section):
    """Settings of ConvNet."""

    name: Literal["convnet"] = "convnet"
    depth: int = Field(default=3, ge=1, le=8)
    """Number of blocks; each pooled block halves the side of the image."""
    width: int = Field(default=128, ge=1)
    """Channels of every convolution."""
    norm: Norm = "instance"
    """Normalisation after each convolution; `group` has 4 groups."""
    activation: Literal["relu", "leaky_relu", "sigmoid"] = "relu"
    """Non-linearity after each normalisation."""
    pooling: Literal["avg", "max", "none"] = "avg"
    """2×2 pooling at the end of each block."""


class ConvNet(Network):
    """ConvNet-`depth` of `width` channels for images of shape (c, h, w)."""

    Config = Config

    def __init__(self, config: Config, image_shape: tuple[int, int, int], num_classes: int) -> None:
        channels, height, width = image_shape
        blocks: list[nn.Module] = []
        for index in range(config.depth):
            padding = 3 if index == 0 and channels == 1 and height >= 28 else 1
            height, width = height + 2 * padding - 2, width + 2 * padding - 2
            blocks.append(_block(config, channels, padding, (height, width)))
            channels = config.width
            if config.pooling != "none":
                height, width = height // 2, width // 2
            if min(height, width) < 1:
                raise UserError(
                    f"model.depth={config.depth} pools images of {image_shape[1]}×{image_shape[2]} to nothing"
                    f"; valid: at most {index} here, or pooling: none"
                )
        super().__init__(blocks, channels * height * width, num_classes)


def _block(config: Config, channels: int, padding: int, size: tuple[int, int]) -> nn.Sequential:
    activations: dict[str, type[nn.Module]] = {
        "relu": nn.ReLU,
        "leaky_relu": nn.LeakyReLU,
        "sigmoid": nn.Sigmoid,
    }
    layers: list[nn.Module] = [
        nn.Conv2d(channels, config.width, 3, padding=padding),
        norm_layer(config.norm, config.width, size),
        activations[config.activation](),
    ]
    if config.pooling != "none":
        layers.append(nn.AvgPool2d(2) if config.pooling == "avg" else nn.MaxPool2d(2))
    return nn.Sequential(*layers)
