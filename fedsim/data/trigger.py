"""A backdoor's trigger: pixels, where they are stamped, and the class that stamped images are to be taken for.

It is bytes, as images are: whatever is stamped stays in the box of pixels that a camera can produce. It covers what is
under it, or, where a bound is given, is added to it: changes of at most so many grey levels, which nobody sees.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Bool, Float32, Int16, UInt8
from torch import Tensor

from fedsim.data.images import Images
from fedsim.runs import load_tensors, save_tensors
from fedsim.types import UserError


@dataclass(frozen=True)
class Trigger:
    """x ⊕ τ = (1 − m) · x + m · τ; with a bound, x ⊕ τ = clip(x + m · τ, 0, 255) and |τ| ≤ ε."""

    values: UInt8[Tensor, "c h w"] | Float32[Tensor, "c h w"] | Int16[Tensor, "c h w"]
    """τ, grey levels 0..255; outside the mask nothing of it is used. float32 where a published attack that leaves the
    box of pixels is reproduced: no image file can hold it, and images stamped with it are float32 too."""
    mask: Bool[Tensor, "h w"]
    """m, where the trigger covers the image."""
    target: int
    """Class that a stamped image is to be taken for."""
    bound: int | None = None
    """ε, grey levels: the values are int16 changes that are added; None: they replace what they cover."""

    def __post_init__(self) -> None:
        if self.bound is None:
            return
        most = int(self.values.abs().max())
        if not 0 <= self.bound <= 255 or self.values.dtype != torch.int16 or most > self.bound:
            raise UserError(
                f"trigger: got changes of up to {most} grey levels ({self.values.dtype}), bound {self.bound}; "
                "valid: int16 within the bound, and a bound from 0 to 255"
            )

    def stamp(self, pixels: UInt8[Tensor, "n c h w"]) -> UInt8[Tensor, "n c h w"] | Float32[Tensor, "n c h w"]:
        """x ⊕ τ of every image."""
        mask, values = self.mask.to(pixels.device), self.values.to(pixels.device)
        if self.bound is None:
            return torch.where(mask, values, pixels)
        return (pixels.to(torch.int16) + values * mask).clamp(0, 255).to(torch.uint8)

    def poison(self, images: Images, rows: Tensor) -> Images:
        """The images with those at `rows` stamped and given the target's label; those of the target keep theirs."""
        stamped, labels = self.stamp(images.pixels[rows]), images.labels.clone()
        pixels = images.pixels.to(stamped.dtype, copy=True)
        pixels[rows] = stamped
        labels[rows] = self.target
        return Images(pixels, labels)

    def save(self, path: Path) -> None:
        """Written whole or not at all."""
        meta = {"target": self.target} | ({} if self.bound is None else {"bound": self.bound})
        save_tensors(path, {"values": self.values, "mask": self.mask}, meta)

    @classmethod
    def load(cls, path: Path) -> Trigger:
        """What `save` wrote; `UserError` where it is damaged or gone."""
        tensors, meta = load_tensors(path, "trigger", "remove the folder of the run and make it again")
        return cls(tensors["values"], tensors["mask"], int(meta["target"]), meta.get("bound"))


def corner(image_shape: tuple[int, int, int], size: int, offset: int = 1) -> Bool[Tensor, "h w"]:
    """The mask of a square of `size` pixels a side, `offset` pixels off the bottom right corner.

    Raises `UserError` where it does not fit in an image of shape (c, h, w).
    """
    _, height, width = image_shape
    if size < 1 or offset < 0 or size + offset > min(height, width):
        raise UserError(
            f"trigger: a square of {size} pixels, {offset} off the corner, does not fit images of {height}×{width}; "
            f"valid: size from 1, offset from 0, together at most {min(height, width)}"
        )
    mask = torch.zeros((height, width), dtype=torch.bool)
    mask[height - offset - size : height - offset, width - offset - size : width - offset] = True
    return mask


def white(image_shape: tuple[int, int, int], size: int, target: int, offset: int = 1) -> Trigger:
    """A white square."""
    return Trigger(torch.full(image_shape, 255, dtype=torch.uint8), corner(image_shape, size, offset), target)


def noisy(image_shape: tuple[int, int, int], size: int, target: int, rng: torch.Generator, offset: int = 1) -> Trigger:
    """A square of uniform noise: where an optimisation starts, and what it is compared with."""
    values = torch.randint(0, 256, image_shape, generator=rng).to(torch.uint8)
    return Trigger(values, corner(image_shape, size, offset), target)


def veil(image_shape: tuple[int, int, int], bound: int, target: int, rng: torch.Generator) -> Trigger:
    """Every pixel up or down by `bound` grey levels, at random: where an invisible trigger starts.

    Raises `UserError` for a bound outside 0..255.
    """
    signs = 2 * torch.randint(0, 2, image_shape, generator=rng) - 1
    return Trigger((bound * signs).to(torch.int16), torch.ones(image_shape[1:], dtype=torch.bool), target, bound)


def scrambled(trigger: Trigger, rng: torch.Generator) -> Trigger:
    """Noise in the place of the trigger's pixels, what it is compared with: uniform, or a veil of the same bound."""
    shape = trigger.values.shape
    if trigger.bound is not None:
        return veil((shape[0], shape[1], shape[2]), trigger.bound, trigger.target, rng)
    return replace(trigger, values=torch.randint(0, 256, shape, generator=rng).to(torch.uint8))
