"""Weights of labelled images in a training: how many records each stands for, on any scale.

    L = 1/n Σ_i w_i ℓ_i,   w scaled to mean 1 over all n images

The cross-entropy −Σ_c q_c log p_c is linear in q, so w_i ℓ_i is that of the target w_i q_i; mixed images (CutMix) mix
these too. Weights of 1 are no weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor


def mean_one(weights: Float[Tensor, "n"]) -> Float[Tensor, "n"]:
    """The same weights on the scale on which their mean is 1."""
    return (weights.double() / weights.double().mean()).float()


def weighted(
    targets: Int64[Tensor, "n"] | Float[Tensor, "n k"], weights: Float[Tensor, "n"], num_classes: int
) -> Float[Tensor, "n k"]:
    """w_i q_i of every image."""
    shares = targets if targets.is_floating_point() else F.one_hot(targets, num_classes).float()
    return shares * weights.unsqueeze(1)


def problem(weights: Tensor | None, count: int, most: float | None = None) -> str | None:
    """What is wrong with received weights of `count` images, each at most `most`; None: nothing, or there are none."""
    if weights is None:
        return None
    if weights.dtype != torch.float32 or tuple(weights.shape) != (count,):
        return f"weights are {weights.dtype}{tuple(weights.shape)}, not float32({count},)"
    if not bool(torch.isfinite(weights).all()):
        return f"{int((~torch.isfinite(weights)).sum())} weights are not finite"
    if count and not float(weights.min()) > 0:
        return f"weights begin at {float(weights.min()):g}, valid are more than 0"
    if most is not None and count and float(weights.max()) > most:
        return f"weights reach {float(weights.max()):g}, the agreed bound is {most:g}"
    return None
