"""Learned step sizes of a set: the steps of plain SGD that its images were made for, and their order.

    step t = e S + s      θ ← θ − η_{e,s} ∇_θ 1/|P_s| Σ_{i ∈ P_s} ℓ(θ; x_i, y_i)

    P_s  images whose number within their class, in stored order, is s modulo S; an empty one is no step
    η    `rates`, E × S float32 beside the images

They belong to these images in this order: a part or a union of sets has none. In a federation they stay with the
client, since the server trains on the union of what it received.
"""

from __future__ import annotations

import torch
from jaxtyping import Int64
from torch import Tensor


def parts(labels: Int64[Tensor, "m"], steps: int) -> list[Int64[Tensor, "_"]]:
    """P_0 … P_{S−1}, S = `steps` ≥ 1: rows of the images, ascending."""
    counts = torch.bincount(labels.cpu())
    order = torch.argsort(labels.cpu(), stable=True)
    number = torch.empty_like(order)
    number[order] = torch.cat([torch.arange(count) for count in counts.tolist()] or [order])
    return [torch.nonzero(number % steps == step).flatten().to(labels.device) for step in range(steps)]


def problem(rates: Tensor | None, formation: int) -> str | None:
    """What is wrong with stored step sizes, or None: nothing, or there are none."""
    if rates is None:
        return None
    if rates.dtype != torch.float32 or rates.ndim != 2 or not rates.numel():
        return f"step sizes are {rates.dtype}{tuple(rates.shape)}, not float32(epochs, steps)"
    if not bool(torch.isfinite(rates).all()) or float(rates.min()) < 0:
        return f"step sizes begin at {float(rates.min()):g}, valid are finite numbers from 0"
    return f"step sizes are of whole images, and these are of formation {formation}" if formation > 1 else None
