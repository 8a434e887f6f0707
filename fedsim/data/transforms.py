"""Between bytes and network input: x = (u/255 − mean) / std, whitened if asked for; its inverse; the box of pixels.

Condensation steps are taken in units of the network input, because the papers' image learning rates are stated there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from fedsim.data.images import Dataset, GreyLevels, Images
from fedsim.data.zca import Whitening, fit

SLACK = 0.1
"""Grey levels by which a whitened image may leave the box: more than float32 rounds, less than a byte notices."""


@dataclass(frozen=True)
class Normalise:
    """Per-channel normalisation, `mean` and `std` of pixels in 0..1, and ZCA whitening of what comes out, or none."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    zca: Whitening | None = None

    @classmethod
    def of(cls, dataset: Dataset, train: Images) -> Normalise:
        """As `dataset` says; `train` are the images that a whitening is fitted to: no others may be seen by it."""
        zca = None if dataset.zca is None else fit(train.pixels, dataset.mean, dataset.std, dataset.zca)
        return cls(dataset.mean, dataset.std, zca)

    def __call__(self, pixels: GreyLevels) -> Float[Tensor, "n c h w"]:
        """Grey levels to float32 network input, on their device."""
        mean, std = self._tensors(pixels.device)
        plain = (pixels.to(torch.float32) / 255 - mean) / std
        return plain if self.zca is None else self.zca(plain)

    def project(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """argmin ‖p − x‖² over images p whose pixels lie in 0..1 before normalisation: a clamp.

        Whitened images are clamped before whitening. The result lies in the box, but another point of it may be nearer
        in whitened units. Images that lie in it are left as they are, so that repeated steps do not gather roundings.
        """
        mean, std = self._tensors(images.device)
        low, high = -mean / std, (1 - mean) / std
        if self.zca is None:
            return torch.minimum(torch.maximum(images, low), high)
        plain, slack = self.zca.undo(images), SLACK / 255 / std
        inside = ((plain >= low - slack) & (plain <= high + slack)).flatten(1).all(1)
        clamped = self.zca(torch.minimum(torch.maximum(plain, low), high))
        return torch.where(inside[:, None, None, None], images, clamped)

    def quantise(self, images: Float[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
        """Network inputs as the nearest bytes."""
        return (self.pixels(images) * 255).round().clamp(0, 255).to(torch.uint8)

    def pixels(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Network inputs as pixels in 0..1."""
        mean, std = self._tensors(images.device)
        return (images if self.zca is None else self.zca.undo(images)) * std + mean

    def inputs(self, pixels: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Pixels in 0..1 as network inputs."""
        mean, std = self._tensors(pixels.device)
        plain = (pixels - mean) / std
        return plain if self.zca is None else self.zca(plain)

    def _tensors(self, device: torch.device) -> tuple[Tensor, Tensor]:
        shape = (1, -1, 1, 1)
        return torch.tensor(self.mean, device=device).view(shape), torch.tensor(self.std, device=device).view(shape)
