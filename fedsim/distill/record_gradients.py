"""Gradients of the loss by the weights, record by record: rows that a private owner clips one by one.

    row_i = ∇_w ℓ(φ_w(x_i), y_i)        the weights that are asked for, one after another, as a vector

Each row is of its own record alone. The mean of the rows of a class is g_c of class_gradients.py.

Cost  one vectorised pass forward and backward. Measured on one CPU thread (ConvNet-2-32, 8×8): two to four times the
      gradient of the whole batch. Rows of all records of a pass are in memory at once (releases.py bounds them).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from fedsim.distill.class_gradients import Gradients
from fedsim.models.execution import Runner, wide
from fedsim.models.functional import call
from fedsim.types import Params


def record_gradients(
    runner: Runner,
    params: Params,
    names: Sequence[str],
    images: Float[Tensor, "n c h w"],
    labels: Int64[Tensor, "n"],
) -> Float[Tensor, "n p"]:
    """The gradient of each record's cross-entropy by the weights `names`, as written, never compiled."""
    fixed = {name: value.detach() for name, value in params.items()}

    def loss(weights: Gradients, image: Tensor, label: Tensor) -> Tensor:
        with runner.autocast(images.device.type):
            logits = wide(call(runner.network, fixed | weights, "forward", image[None]))
        return F.cross_entropy(logits, label[None])

    each = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0, 0))
    found = each({name: fixed[name] for name in names}, images, labels)
    return torch.cat([found[name].flatten(1) for name in names], dim=1)


def as_gradients(row: Float[Tensor, "p"], params: Params, names: Sequence[str]) -> Gradients:
    """A row, or a sum of rows, by the names of the weights; in their type and on their device."""
    parts = row.split([params[name].numel() for name in names])
    return {name: part.view(params[name].shape).to(params[name]) for name, part in zip(names, parts, strict=True)}


def width(params: Params, names: Sequence[str]) -> int:
    """p, entries of a row."""
    return sum(params[name].numel() for name in names)
