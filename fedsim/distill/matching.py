"""Per-class sums and means of a batch in which any class may be small or missing: what every matching loss uses."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def class_sums(features: Float[Tensor, "n d"], labels: Int64[Tensor, "n"], num_classes: int) -> Float[Tensor, "k d"]:
    """Σ over the rows of each class; zero for an absent class.

    A product with the one-hot matrix: deterministic on every device, differentiable, one kernel for all classes.
    """
    members = torch.nn.functional.one_hot(labels, num_classes).to(features.dtype)
    return members.T @ features


def class_means(sums: Float[Tensor, "k d"], counts: Int64[Tensor, "k"]) -> Float[Tensor, "k d"]:
    """Sums over counts; zero for an absent class."""
    return sums / counts.clamp(min=1).to(sums.dtype).unsqueeze(1)
