"""Admix: the gradient is the mean over darkened copies of the image with a little of other classes' images added.

    1/(m₁ m₂)  Σ_{x′}  Σ_{i=0}^{m₁−1}  ∇_x ℓ( f( γ_i (x_t + η x′) ), y )        γ_i = 2^{−i}

    x′  m₂ images of other classes, drawn anew in every step      η  their strength      the rest as in mi_fgsm.py

The label stays y: x′ is in the picture only, which tells Admix from mixup. The sum may leave 0..1.

Source  Wang, He, Wang, He, "Admix: Enhancing the Transferability of Adversarial Attacks", ICCV 2021 (arXiv 2102.00436),
        equation 5, algorithm 1.
Code    Trustworthy-AI-Group/TransferAttack (facts only, for settings): m₁ 5, m₂ 3, η 0.2; there x′ is a shuffled
        batch, of whatever class.
Differs x′ is drawn from the images attacked at once, uniformly over those of another class, as the paper says. Pixels
        are in 0..1, so γ darkens; in the authors' −1..1 it greys.
Reduces with η = 0 and m₁ = 1 to mi_fgsm.py.
Cost    m₁ m₂ × that of mi_fgsm.py.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor

from attacks.mi_fgsm import Logits, MomentumConfig, iterate, loss_gradient
from fedsim.types import UserError


class Config(MomentumConfig):
    """Settings of MI-FGSM with Admix."""

    name: Literal["admix"] = "admix"
    scales: int = Field(default=5, ge=1, le=16)
    """m₁, copies of halved brightness."""
    admixed: int = Field(default=3, ge=1)
    """m₂, images added, one at a time."""
    strength: float = Field(default=0.2, ge=0, le=1)
    """η."""


def draw(labels: Int64[Tensor, "n"], count: int, rng: torch.Generator) -> Int64[Tensor, "m n"]:
    """`count` rows; in each, for every image the position of one of another class, uniformly and with replacement.

    Raises `UserError` where an image has none.
    """
    known = labels.cpu()
    other = known[:, None] != known
    if not other.any(1).all():
        raise UserError("admix: all images attacked at once are of one class; valid: images of two classes or more")
    return torch.multinomial(other.float(), count, replacement=True, generator=rng).T.contiguous()


def gradient(
    logits: Logits,
    images: Float[Tensor, "n c h w"],
    labels: Int64[Tensor, "n"],
    partners: Int64[Tensor, "m n"],
    scales: int,
    strength: float,
) -> Float[Tensor, "n c h w"]:
    """The mean gradient by x; `partners` are positions among `images`, whose pixels count as constants."""
    total = torch.zeros_like(images)
    for row in partners.to(images.device):
        added = strength * images.detach()[row]
        for power in range(scales):
            total += loss_gradient(_mixed(logits, added, 0.5**power), images, labels)
    return total / (len(partners) * scales)


def _mixed(logits: Logits, added: Tensor, scale: float) -> Logits:
    return lambda now: logits(scale * (now + added))


def attack(
    logits: Logits,
    images: Float[Tensor, "n c h w"],
    labels: Int64[Tensor, "n"],
    config: Config,
    rng: torch.Generator,
) -> Float[Tensor, "n c h w"]:
    """Images within ε of `images` that `logits` is to misread, by one another's help.

    Raises `UserError` as `mi_fgsm.iterate` does, and where all images are of one class.
    """

    def one(now: Tensor) -> Tensor:
        partners = draw(labels, config.admixed, rng)
        return gradient(logits, now, labels, partners, config.scales, config.strength)

    return iterate(one, images, labels, config)
