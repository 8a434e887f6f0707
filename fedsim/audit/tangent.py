"""The tangent space of a network at θ: combinations of the gradients of records, and what of a change lies outside it.

    Jᵀα = Σ_i Σ_c α_ic ∇_θ f_c(x_i; θ)        ρ = min_α ‖Δθ − Jᵀα‖ / ‖Δθ‖

    f_c  output c      x_i  n records      α  duals (n, k)      Δθ  change of the weights      J  n k gradients, one a
    row, never built: Jᵀα is one backward pass of Σ α f, J v one forward derivative

ρ is 0 where training stayed linear in θ (`lazy`): gradient flow on any loss then moves θ inside that space. It is
computed by conjugate gradients on the least squares problem, whose residual falls at every step: stopping early errs
towards a larger ρ, never a smaller one.

Source  Jacot, Gabriel, Hongler, "Neural Tangent Kernel: Convergence and generalization in neural networks", NeurIPS
        2018; Hestenes, Stiefel, "Methods of conjugate gradients for solving linear systems", 1952 (the least squares
        form).
Code    none read.
Cost    a backward pass and a forward derivative of all records a step; memory of a few copies of θ.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor

from fedsim.models.functional import call, trainable_names
from fedsim.models.network import Network
from fedsim.types import Params, UserError

LAZY = 0.2
"""Largest ρ at which a run counts as linear."""


def combination(
    network: Network, params: Params, images: Float[Tensor, "n c h w"], duals: Float[Tensor, "n k"]
) -> Params:
    """Jᵀα by name of the weight; images are network inputs. Differentiable in images and duals."""
    return torch.func.grad(lambda weights: (duals * call(network, params | weights, "forward", images)).sum())(
        {name: params[name] for name in trainable_names(network)}
    )


def along(
    network: Network, params: Params, images: Float[Tensor, "n c h w"], direction: Params
) -> Float[Tensor, "n k"]:
    """J v: how the outputs change where θ goes along `direction`."""
    weights = {name: params[name] for name in direction}

    def outputs(weights: Params) -> Tensor:
        return call(network, params | weights, "forward", images)

    return torch.func.jvp(outputs, (weights,), (direction,))[1]


def residual(
    network: Network, params: Params, change: Params, images: Float[Tensor, "n c h w"], iterations: int = 500
) -> float:
    """ρ, 0..1: the share of `change` that no combination of the gradients of `images` (network inputs) explains.

    `UserError` where the change is 0, or the records have as many gradients as there are weights: they span all.
    """
    images = images.detach()
    size = sum(value.numel() for value in change.values())
    whole = _squared(change)
    seen = along(network, params, images, change)
    if not whole > 0:
        raise UserError("residual: got a change of 0; valid: weights before and after training that moved them")
    if seen.numel() >= size:
        raise UserError(f"residual: got {seen.numel()} gradients of {size} weights, which span all; give fewer records")

    def forward(duals: Tensor) -> Params:
        return combination(network, params, images, duals)

    left = least_squares(forward, lambda v: along(network, params, images, v), change, iterations)[1]
    return float((_squared(left) / whole).sqrt())


def residuals(network: Network, params: Params, changes: Params, images: Float[Tensor, "b n c h w"]) -> list[float]:
    """ρ of each of b changes, stacked with b first, all from the same θ."""
    each = range(len(images))
    return [residual(network, params, {name: one[row] for name, one in changes.items()}, images[row]) for row in each]


def least_squares(
    forward: Callable[[Tensor], Params], back: Callable[[Params], Tensor], goal: Params, iterations: int
) -> tuple[Tensor, Params]:
    """argmin_α ‖goal − Jᵀα‖² for Jᵀ `forward` and J `back`, and goal − Jᵀα; from α = 0, at most `iterations` steps."""
    left, duals = dict(goal), torch.zeros(())
    slope = direction = back(left)
    power, size = slope.square().sum(), _squared(left)
    for _ in range(iterations):
        if not power > 0:
            break
        moved = forward(direction)
        step = power / _squared(moved)
        nearer = {name: value - step * moved[name] for name, value in left.items()}
        before, size = size, _squared(nearer)
        if not size < before * (1 - 4 * torch.finfo(size.dtype).eps):  # no more than rounding: what follows is noise
            break
        left, duals = nearer, duals + step * direction
        slope, last = back(left), power
        power = slope.square().sum()
        direction = slope + power / last * direction
    return torch.zeros_like(slope) + duals, left


def _squared(change: Params) -> Tensor:
    return torch.stack([value.square().sum() for value in change.values()]).sum()
