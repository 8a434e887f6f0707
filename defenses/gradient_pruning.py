"""Gradient pruning: a client sends only the largest entries of a gradient, so that it cannot be inverted.

    g'_i = g_i where |g_i| is among the ⌈s p⌉ largest of its tensor, else 0          s  share kept, p  its entries

It acts at a client that sends gradients, before they leave, and is here for the comparison with synthetic uploads: no
filter and no aggregation, so it is not named in `defenses:` of a run. `pruned_release` puts it before the attacks on
gradients (attacks/dlg.py and its kin take a `GradientRelease`).

Source  Zhu, Liu, Han, "Deep Leakage from Gradients", NeurIPS 2019, arXiv 1906.08935, section 5.2 (gradient compression:
        above a sparsity of 20 % the images are no longer recovered there); the pruning is that of Lin, Han, Mao, Wang,
        Dally, "Deep Gradient Compression", ICLR 2018.        Code    none read.
Differs what is pruned is dropped, not kept for the next round. Of equal entries the earlier ones are kept.
Reduces s = 1: the gradient as it is.
Cost    a partial sort of each tensor.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from fedsim.audit.gradients import GradientRelease
from fedsim.config import Section
from fedsim.types import UserError


class Config(Section):
    """Settings of gradient pruning."""

    name: str = "gradient_pruning"
    share: float = Field(default=0.5, gt=0, le=1)
    """s, share of each tensor's entries that is kept; 1: all."""


def pruned(gradient: Float[Tensor, "*weight"], share: float) -> Float[Tensor, "*weight"]:
    """The entries of one tensor of largest size, ⌈share · p⌉ of p, and 0 for the others.

    Raises `UserError` for a share outside (0, 1].
    """
    if not 0 < share <= 1:
        raise UserError(f"share: got {share}; valid: more than 0, at most 1")
    flat = gradient.reshape(-1)
    count = math.ceil(share * flat.numel() - 1e-9)  # a rounding above an integer keeps no entry more
    kept = flat.abs().sort(descending=True, stable=True).indices[:count]
    return torch.zeros_like(flat).index_put((kept,), flat[kept]).view_as(gradient)


def pruned_release(release: GradientRelease, config: Config) -> GradientRelease:
    """What the server sees of clients that prune: each case and each tensor by itself."""
    gradients = {
        name: torch.stack([pruned(case, config.share) for case in cases]) for name, cases in release.gradients.items()
    }
    return replace(release, gradients=gradients)
