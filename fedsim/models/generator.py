"""A small conditional generator of images: noise and a class in, an image out.

    [z, one-hot y] → linear → width × ⌈h/4⌉ × ⌈w/4⌉ → twice: transposed convolution, group norm, ReLU
                   → convolution → sigmoid

Each transposed convolution (4 × 4, stride 2, padding 1) doubles both sides; what goes beyond h × w is cut off. The
group norms have one group, so that no image of a batch sees another. For images from 8 × 8 to 64 × 64.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from fedsim.config import Section
from fedsim.models.network import draw_uniform

Channels = tuple[float, ...]
"""A number for each channel."""


class Config(Section):
    """Architecture of the generator."""

    noise: int = Field(default=16, ge=1)
    """Entries of z, standard normal."""
    width: int = Field(default=32, ge=1)
    """Channels of every layer between."""


def flops_per_sample(config: Config, image_shape: tuple[int, int, int], num_classes: int) -> float:
    """Operations of one forward pass of one image (a multiplication and an addition are two)."""
    channels = (0.0,) * image_shape[0]
    rng, device = torch.Generator(), torch.device("cpu")
    generator = Generator.build(config, image_shape, num_classes, channels, tuple(1.0 for _ in channels), rng, device)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        generator.sample(torch.zeros(1, dtype=torch.int64), rng)
    return float(counter.get_total_flops())


class Generator(nn.Module):
    """G(z, y): images in network units, each pixel in the valid box."""

    def __init__(
        self, config: Config, image_shape: tuple[int, int, int], num_classes: int, mean: Channels, std: Channels
    ) -> None:
        super().__init__()
        channels, self.height, self.width = image_shape
        self.config, self.num_classes, self.mean, self.std = config, num_classes, mean, std
        self.sides = (config.width, math.ceil(self.height / 4), math.ceil(self.width / 4))
        self.linear = nn.Linear(config.noise + num_classes, math.prod(self.sides))
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.ConvTranspose2d(config.width, config.width, 4, stride=2, padding=1),
                nn.GroupNorm(1, config.width),
                nn.ReLU(),
            )
            for _ in range(2)
        )
        self.last = nn.Conv2d(config.width, channels, 3, padding=1)

    @classmethod
    def build(
        cls, config: Config, image_shape: tuple[int, int, int], classes: int, mean: Channels, std: Channels,
        rng: torch.Generator, device: torch.device,
    ) -> Generator:  # fmt: skip
        """A generator whose weights are drawn from `rng`; torch's own constructors draw nothing."""
        with torch.device("meta"):
            generator = cls(config, image_shape, classes, mean, std)
        generator = generator.to_empty(device=device)
        generator.reset(rng)
        return generator

    def reset(self, rng: torch.Generator) -> None:
        """Draw initial weights as torch's layers do by default."""
        for layer in self.modules():
            if isinstance(layer, (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)):
                bound = 1 / math.sqrt(layer.weight[0].numel())
                draw_uniform(layer.weight, bound, rng)
                assert layer.bias is not None
                draw_uniform(layer.bias, bound, rng)
            elif isinstance(layer, nn.GroupNorm):
                nn.init.ones_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, noise: Float[Tensor, "n z"], labels: Int64[Tensor, "n"]) -> Float[Tensor, "n c h w"]:
        """An image of class y for every z."""
        given = torch.cat([noise, F.one_hot(labels, self.num_classes).to(noise.dtype)], dim=1)
        images = self.linear(given).view(-1, *self.sides)
        for block in self.blocks:
            images = block(images)
        grey = self.last(images)[:, :, : self.height, : self.width].sigmoid()
        mean, std = (torch.tensor(one, device=grey.device).view(1, -1, 1, 1) for one in (self.mean, self.std))
        return (grey - mean) / std

    def sample(self, labels: Int64[Tensor, "n"], rng: torch.Generator) -> Float[Tensor, "n c h w"]:
        """An image of each label, z drawn from `rng` (on the CPU)."""
        weight = self.linear.weight
        noise = torch.randn((len(labels), self.config.noise), generator=rng).to(weight.device, weight.dtype)
        return self(noise, labels.to(weight.device))
