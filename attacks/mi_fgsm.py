"""Momentum iterative FGSM: steps of equal size along the sign of a gradient that remembers earlier ones.

    g_{t+1} = μ g_t + ∇ℓ / ‖∇ℓ‖₁        x_{t+1} = Π[ x_t + α sign g_{t+1} ]        x_0 = x,  g_0 = 0

    ∇ℓ  gradient of ℓ(f(x_t), y) by the image     y  its class     f  the surrogate, whose gradient is at hand
    μ   momentum    α  step size    Π  onto  ‖x_t − x‖_∞ ≤ ε  and pixels in 0..1

The momentum is to even out directions that belong to f alone, so that other networks misread the image, too.

Source  Dong, Liao, Pang, Su, Zhu, Hu, Li, "Boosting Adversarial Attacks with Momentum", CVPR 2018 (arXiv 1710.06081),
        algorithm 1.
Code    Trustworthy-AI-Group/TransferAttack (facts only, for settings): ε 16/255, α 1.6/255, 10 steps, μ 1.
Differs an image whose gradient is zero keeps its momentum: there is nothing to divide by.
Reduces with μ = 0 to the iterative FGSM, with one step of ε to the FGSM. The base of diverse_inputs.py, admix.py and
        mist.py, which take the gradient in other ways.
Cost    steps × one forward and backward of f.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor

from fedsim.config import Section
from fedsim.types import UserError

Logits = Callable[[Tensor], Tensor]
"""A surrogate: images (n, c, h, w) of pixels in 0..1 to logits (n, k), differentiable."""


class MomentumConfig(Section):
    """Settings of the momentum iteration, whatever gradient it follows."""

    epsilon: float = Field(default=16 / 255, ge=0, le=1)
    """ε, the most that a pixel may change, of 0..1."""
    steps: int = Field(default=10, ge=1)
    """Steps from the image on."""
    step_size: float | None = Field(default=None, gt=0)
    """α, of 0..1; null: ε / steps."""
    momentum: float = Field(default=1.0, ge=0)
    """μ."""


class Config(MomentumConfig):
    """Settings of MI-FGSM."""

    name: Literal["mi_fgsm"] = "mi_fgsm"


def loss_gradient(
    logits: Logits, images: Float[Tensor, "n c h w"], labels: Int64[Tensor, "n"]
) -> Float[Tensor, "n c h w"]:
    """∇ℓ of every image by its own pixels, ℓ the cross-entropy; images do not see one another."""
    with torch.enable_grad():
        leaf = images.detach().requires_grad_()
        loss = F.cross_entropy(logits(leaf), labels, reduction="sum")
        return torch.autograd.grad(loss, leaf)[0]


def attack(
    logits: Logits,
    images: Float[Tensor, "n c h w"],
    labels: Int64[Tensor, "n"],
    config: Config,
    rng: torch.Generator,
) -> Float[Tensor, "n c h w"]:
    """Images within ε of `images` that `logits` is to misread. Nothing is drawn from `rng`.

    Raises `UserError` as `iterate` does.
    """
    return iterate(lambda now: loss_gradient(logits, now, labels), images, labels, config)


def iterate(
    gradient: Callable[[Tensor], Tensor],
    images: Float[Tensor, "n c h w"],
    labels: Int64[Tensor, "n"],
    config: MomentumConfig,
) -> Float[Tensor, "n c h w"]:
    """The momentum iteration from `images` on; `gradient` is asked once a step, for all images at once.

    Raises `UserError` where pixels lie outside 0..1 or there are not as many labels, from 0, as images.
    """
    require(images, labels)
    low, high = (images - config.epsilon).clamp(min=0), (images + config.epsilon).clamp(max=1)
    step = config.epsilon / config.steps if config.step_size is None else config.step_size
    now, momentum = images, torch.zeros_like(images)
    for _ in range(config.steps):
        momentum = config.momentum * momentum + normalised(gradient(now))
        now = torch.minimum(torch.maximum(now + step * momentum.sign(), low), high)
    return now


def normalised(gradient: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
    """∇ℓ / ‖∇ℓ‖₁ of every image; zero where the gradient is."""
    size = gradient.abs().sum((1, 2, 3), keepdim=True)
    return gradient / size.clamp(min=torch.finfo(gradient.dtype).tiny)


def require(images: Float[Tensor, "n c h w"], labels: Int64[Tensor, "n"]) -> None:
    """Raise `UserError` for what no attack of this family can start from."""
    if len(images) != len(labels) or not len(images):
        raise UserError(f"got {len(images)} images and {len(labels)} labels; valid: as many, at least one")
    low, high = images.aminmax()
    if not (low >= 0 and high <= 1):
        raise UserError(f"images: got pixels in {float(low):.3g}..{float(high):.3g}; valid: 0..1, before normalisation")
    if labels.min() < 0:
        raise UserError(f"labels: got {int(labels.min())}; valid: classes from 0")
