"""Diverse inputs: the gradient is that of the image shrunk and put somewhere on black, now and then.

    ∇ℓ( f(T(x_t; p)), y )        T(x; p) = pad(resize(x, r), at a random place) with probability p,  else x

    r  side, uniform over the whole numbers from ⌈ρ s⌉ to s      s  side of the image      the rest as in mi_fgsm.py

Source  Xie, Zhang, Zhou, Bai, Wang, Ren, Yuille, "Improving Transferability of Adversarial Examples with Input
        Diversity", CVPR 2019 (arXiv 1803.06978), section 3.3 (M-DI²-FGSM).
Code    Trustworthy-AI-Group/TransferAttack (facts only): p 0.5, sides up to 1.1 s. The paper's 299 to 330 pixels.
Differs the network here takes one size of image: in the place of enlarging to r and padding to the largest r, the
        image is shrunk to r and padded to s, ρ = 299/330. Bilinear, sampled at the centres of pixels. Every image has
        its own draw.
Reduces with p = 0 to mi_fgsm.py.
Cost    that of mi_fgsm.py.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor

from attacks.mi_fgsm import Logits, MomentumConfig, iterate, loss_gradient


class Config(MomentumConfig):
    """Settings of MI-FGSM with diverse inputs."""

    name: Literal["diverse_inputs"] = "diverse_inputs"
    probability: float = Field(default=0.5, ge=0, le=1)
    """p, of an image being changed in a step."""
    smallest: float = Field(default=299 / 330, gt=0, le=1)
    """ρ, the smallest side as a share of the image's."""


class Windows(NamedTuple):
    """Where every image goes: rows and columns of the window that it is shrunk to."""

    height: Int64[Tensor, "n"]
    width: Int64[Tensor, "n"]
    top: Int64[Tensor, "n"]
    left: Int64[Tensor, "n"]


def draw(count: int, size: tuple[int, int], config: Config, rng: torch.Generator) -> Windows:
    """One window for each of `count` images of `size` (h, w); the whole image with probability 1 − p.

    A square image stays square; of others height and width shrink by the same draw, to whole pixels.
    """
    share = torch.rand(4, count, generator=rng)
    changed = share[0] < config.probability
    sides: list[Tensor] = []
    for side in size:
        least = math.ceil(config.smallest * side)
        shrunk = least + (share[1] * (side + 1 - least)).long().clamp(max=side - least)
        sides.append(torch.where(changed, shrunk, side))
    places = [
        (share[2 + axis] * (side + 1 - inner)).long().minimum(side - inner)
        for axis, (side, inner) in enumerate(zip(size, sides, strict=True))
    ]
    return Windows(*sides, *places)


def shrink(images: Float[Tensor, "n c h w"], windows: Windows) -> Float[Tensor, "n c h w"]:
    """Every image resized into its window, black around it; differentiable."""
    height, width = images.shape[2:]
    rows, row_inside = _coordinates(height, windows.height, windows.top, images)
    columns, column_inside = _coordinates(width, windows.width, windows.left, images)
    grid = torch.stack(torch.broadcast_tensors(columns[:, None, :], rows[:, :, None]), -1)
    found = F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return found * (row_inside[:, :, None] & column_inside[:, None, :])[:, None]


def _coordinates(side: int, inner: Tensor, start: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
    """Where in −1..1 each of `side` pixels of a row is read from, (n, side), and whether it lies in the window."""
    place = torch.arange(side, device=like.device) - start.to(like.device)[:, None]
    inner = inner.to(like.device)[:, None]
    return (2 * place + 1).to(like.dtype) / inner - 1, (place >= 0) & (place < inner)


def gradient(
    logits: Logits, images: Float[Tensor, "n c h w"], labels: Int64[Tensor, "n"], windows: Windows
) -> Float[Tensor, "n c h w"]:
    """∇ of ℓ(f(T(x)), y) by x, for the windows drawn."""
    return loss_gradient(lambda now: logits(shrink(now, windows)), images, labels)


def attack(
    logits: Logits,
    images: Float[Tensor, "n c h w"],
    labels: Int64[Tensor, "n"],
    config: Config,
    rng: torch.Generator,
) -> Float[Tensor, "n c h w"]:
    """Images within ε of `images` that `logits` is to misread; raises `UserError` as `mi_fgsm.iterate` does.

    With p = 0 no window is drawn and nothing is resampled.
    """
    if not config.probability:
        return iterate(lambda now: loss_gradient(logits, now, labels), images, labels, config)

    def one(now: Tensor) -> Tensor:
        height, width = now.shape[2:]
        return gradient(logits, now, labels, draw(len(now), (height, width), config, rng))

    return iterate(one, images, labels, config)
