"""The gradient of the mean loss of some images, in the pieces that the run's execution asks for."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from fedsim.models.execution import Runner
from fedsim.models.functional import trainable_names


def mean_gradient(
    runner: Runner, inputs: Float[Tensor, "n c h w"], targets: Int64[Tensor, "n"] | Float[Tensor, "n k"]
) -> tuple[Float[Tensor, "p"], float]:
    """∇ of the mean cross-entropy in the runner's weights, flat in the order of their sorted names, and that mean.

    p counts trainable weights alone. Pieces add up to the whole batch, except under a batch norm, which sees all of it.
    """
    weights = dict(runner.network.named_parameters())
    ordered = [weights[name] for name in trainable_names(runner.network)]
    total, loss = torch.zeros(sum(one.numel() for one in ordered), device=inputs.device), 0.0
    size = runner.rows(len(inputs))
    with torch.enable_grad():
        for piece, wanted in zip(inputs.split(size), targets.split(size), strict=True):
            part = F.cross_entropy(runner.logits(piece), wanted, reduction="sum") / len(inputs)
            total += torch.cat([one.reshape(-1) for one in torch.autograd.grad(part, ordered)])
            loss += float(part.detach())
    return total, loss


def put_gradient(runner: Runner, gradient: Float[Tensor, "p"]) -> None:
    """`gradient`, as `mean_gradient` orders it, where an optimiser looks for it."""
    weights = dict(runner.network.named_parameters())
    ordered = [weights[name] for name in trainable_names(runner.network)]
    for weight, piece in zip(ordered, gradient.split([one.numel() for one in ordered]), strict=True):
        weight.grad = piece.view_as(weight).clone()
