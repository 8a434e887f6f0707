"""Between bytes and network input: x = (u/255 − mean) / std, its inverse, and the box that valid pixels live in.

Condensation steps are taken in normalised units, because the papers' image learning rates are stated there.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, UInt8
from torch import Tensor


@dataclass(frozen=True)
class Normalise:
    """Per-channel normalisation; `mean` and `std` are of pixels in 0..1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, pixels: UInt8[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Bytes to normalised float32, on the bytes' device."""
        mean, std = self._tensors(pixels.device)
        return (pixels.to(torch.float32) / 255 - mean) / std

    def project(self, images: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """argmin ‖p − x‖² over images p whose pixels lie in 0..1 before normalisation: a clamp."""
        mean, std = self._tensors(images.device)
        return torch.minimum(torch.maximum(images, -mean / std), (1 - mean) / std)

    def quantise(self, images: Float[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"]:
        """Normalised images as the nearest bytes."""
        mean, std = self._tensors(images.device)
        return ((images * std + mean) * 255).round().clamp(0, 255).to(torch.uint8)

    def _tensors(self, device: torch.device) -> tuple[Tensor, Tensor]:
        shape = (1, -1, 1, 1)
        return torch.tensor(self.mean, device=device).view(shape), torch.tensor(self.std, device=device).view(shape)
