"""ConvNet without norm and with a hidden layer: the network that the backdoors on dataset distillation were made on.

    depth × (3×3 convolution → ReLU → 2×2 average pooling) → linear layer of `hidden` units → ReLU → linear head

Its weights from the last: head, hidden layer, convolutions. The attack excites a unit of the second from the last: of
the hidden layer, before its ReLU. In the ConvNet of the condensation papers that place is a norm's scale.

Source  Liu, Li, Backes, Shen, Zhang, "Backdoor Attacks Against Dataset Distillation", NDSS 2023, arXiv 2301.01197.
Code    liuyugeng/baadd `DC/networks.py` (read, not copied): 3 convolutions of 128 channels, 192 hidden units, no norm;
        one-channel images are padded by 3 in the first convolution, so that 28×28 becomes 32×32.
Differs layers after the convolutions are sized by the images; one-channel images under 28 are padded by 1. The
        embedding is the hidden layer's output after its ReLU, which feeds the head (theirs: the convolutions').
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from torch import nn

from fedsim.config import Section
from fedsim.models.network import Network
from fedsim.types import UserError


class Config(Section):
    """Settings of the ConvNet with a hidden layer; defaults are the release's."""

    name: Literal["convnet_hidden"] = "convnet_hidden"
    depth: int = Field(default=3, ge=1, le=8)
    """Number of convolutions; each halves the side of the image."""
    width: int = Field(default=128, ge=1)
    """Channels of every convolution."""
    hidden: int = Field(default=192, ge=1)
    """Units of the hidden layer."""


class HiddenConvNet(Network):
    """`depth` blocks of a convolution and one of the hidden layer, for images of shape (c, h, w)."""

    Config = Config

    def __init__(self, config: Config, image_shape: tuple[int, int, int], num_classes: int) -> None:
        channels, height, width = image_shape
        blocks: list[nn.Module] = []
        for index in range(config.depth):
            padding = 3 if index == 0 and channels == 1 and height >= 28 else 1
            height, width = (height + 2 * padding - 2) // 2, (width + 2 * padding - 2) // 2
            if min(height, width) < 1:
                raise UserError(f"model.depth={config.depth} pools images of {image_shape[1]}×{image_shape[2]} to "
                                f"nothing; valid: at most {index} here")  # fmt: skip
            convolution = nn.Conv2d(channels, config.width, 3, padding=padding)
            blocks.append(nn.Sequential(convolution, nn.ReLU(), nn.AvgPool2d(2)))
            channels = config.width
        flat = channels * height * width
        blocks.append(nn.Sequential(nn.Flatten(), nn.Linear(flat, config.hidden), nn.ReLU()))
        super().__init__(blocks, config.hidden, num_classes)
