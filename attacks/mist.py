"""MIST: two images are mixed, and each is told only what the mixture says of its own class.

    x̃ = λ x_i + (1 − λ) shift(x_j)
    ∇_i  =  1/m Σ_mixtures [ Σ_{x̃ with x_i first} ∂ℓ(f(x̃), y_i)/∂x_i  +  Σ_{x̃ with x_i second} ∂ℓ(f(x̃), y_i)/∂x_i ]

    λ  uniform over low..high, for every mixture      shift  a cyclic shift by whole pixels, rows and columns apart
    m  mixtures that each image is first in, second in as many      the rest as in mi_fgsm.py

Mixup's loss has an item for either class; Admix keeps one and a small second image. Here the second image may be as
strong as the first, because the item of y_j never moves x_i: it moves x_j, which is attacked at the same time.

Source  "Mixing the Image but Separating the gradienT (MIST)", known here by its abstract alone: the input is mixed with
        a randomly shifted image, the gradients of the two items are separated, several mixtures are averaged.
Code    none read; none was found. Re-derived from the abstract.
Differs re-derived, so no number of the paper is reproduced. Read into the abstract, and perhaps not the authors': the
        law of λ, that shifts wrap around, that x_j is another image of the batch by a permutation (of any class), that
        either item is ascended with weight one (the chain rule brings λ and 1 − λ), and m.
Reduces with λ = 1 to mi_fgsm.py: the second image is not seen, and its item has no gradient.
Cost    m × one forward and two backward of f per step, to the one and one of mi_fgsm.py.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from pydantic import Field, model_validator
from torch import Tensor

from attacks.mi_fgsm import Logits, MomentumConfig, iterate


class Config(MomentumConfig):
    """Settings of MI-FGSM with MIST."""

    name: Literal["mist"] = "mist"
    mixtures: int = Field(default=5, ge=1)
    """m."""
    low: float = Field(default=0.0, ge=0, le=1)
    """Smallest λ."""
    high: float = Field(default=1.0, ge=0, le=1)
    """Largest λ."""
    shift: float = Field(default=1.0, ge=0, le=1)
    """Largest shift as a share of the side, to whole pixels; 1: any; 0: none."""

    @model_validator(mode="after")
    def _ordered(self) -> Config:
        if self.low > self.high:
            raise ValueError(f"low={self.low:g} is above high={self.high:g}; give low ≤ high")
        return self


class Mixture(NamedTuple):
    """One mixture of every image with another."""

    share: Float[Tensor, "n"]
    """λ."""
    partner: Int64[Tensor, "n"]
    """Position of x_j; a permutation, so that every image is second once."""
    down: Int64[Tensor, "n"]
    """Rows by which x_j is shifted, cyclically."""
    right: Int64[Tensor, "n"]
    """Columns."""


def draw(count: int, size: tuple[int, int], config: Config, rng: torch.Generator) -> Mixture:
    """A mixture of `count` images of `size` (h, w)."""
    share = config.low + (config.high - config.low) * torch.rand(count, generator=rng)
    partner = torch.randperm(count, generator=rng)
    shifts = [
        torch.randint(0, min(side, int(config.shift * side) + 1), (count,), generator=rng) for side in size
    ]  # fmt: skip
    return Mixture(share, partner, *shifts)


def shifted(
    images: Float[Tensor, "n c h w"], down: Int64[Tensor, "n"], right: Int64[Tensor, "n"]
) -> Float[Tensor, "n c h w"]:
    """Every image by its own number of rows and columns; what leaves at one side comes back at the other."""
    count, _, height, width = images.shape
    rows = (torch.arange(height, device=images.device) - down.to(images.device)[:, None]) % height
    columns = (torch.arange(width, device=images.device) - right.to(images.device)[:, None]) % width
    image = torch.arange(count, device=images.device)[:, None, None]
    return images.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def gradient(
    logits: Logits, images: Float[Tensor, "n c h w"], labels: Int64[Tensor, "n"], mixtures: list[Mixture]
) -> Float[Tensor, "n c h w"]:
    """∇_i of every image, the mean over `mixtures`."""
    total = torch.zeros_like(images)
    for mixture in mixtures:
        share = mixture.share.to(images)[:, None, None, None]
        partner = mixture.partner.to(images.device)
        second = shifted(images.detach()[partner], mixture.down, mixture.right)
        first, other = _items(logits, share * images.detach() + (1 - share) * second, labels, labels[partner])
        total += share * first
        total.index_add_(0, partner, shifted((1 - share) * other, -mixture.down, -mixture.right))
    return total / len(mixtures)


def _items(logits: Logits, mixed: Tensor, labels: Tensor, others: Tensor) -> tuple[Tensor, Tensor]:
    """∂ℓ(f(x̃), y_i)/∂x̃ and ∂ℓ(f(x̃), y_j)/∂x̃."""
    with torch.enable_grad():
        leaf = mixed.requires_grad_()
        found = logits(leaf)
        losses = [F.cross_entropy(found, classes, reduction="sum") for classes in (labels, others)]
        first = torch.autograd.grad(losses[0], leaf, retain_graph=True)[0]
        return first, torch.autograd.grad(losses[1], leaf)[0]


def attack(
    logits: Logits,
    images: Float[Tensor, "n c h w"],
    labels: Int64[Tensor, "n"],
    config: Config,
    rng: torch.Generator,
) -> Float[Tensor, "n c h w"]:
    """Images within ε of `images` that `logits` is to misread, all attacked together.

    Raises `UserError` as `mi_fgsm.iterate` does.
    """

    def one(now: Tensor) -> Tensor:
        height, width = now.shape[2:]
        drawn = [draw(len(now), (height, width), config, rng) for _ in range(config.mixtures)]
        return gradient(logits, now, labels, drawn)

    return iterate(one, images, labels, config)
