"""Gradients of records one at a time, and least squares on the matrix of all of them."""

from __future__ import annotations

import torch
from torch import Tensor

from fedsim.models.functional import trainable_names
from fedsim.models.network import Network


def jacobian(network: Network, images: Tensor) -> Tensor:
    """(n k, p): the gradient of each output at each image, weights in the order of their sorted names."""
    weights = dict(network.named_parameters())
    rows = []
    for image in images:
        for output in network(image[None])[0]:
            found = torch.autograd.grad(output, [weights[name] for name in trainable_names(network)], retain_graph=True)
            rows.append(torch.cat([one.flatten() for one in found]))
    return torch.stack(rows)


def combination(network: Network, images: Tensor, duals: Tensor) -> Tensor:
    """Σ_i Σ_c α_ic ∇f_c(x_i), written as the sum it is."""
    rows = jacobian(network, images)
    total = torch.zeros_like(rows[0])
    for weight, row in zip(duals.flatten(), rows, strict=True):
        total = total + weight * row
    return total


def residual(network: Network, images: Tensor, change: Tensor) -> float:
    """‖Δ − projection of Δ on the rows‖ / ‖Δ‖."""
    rows = jacobian(network, images)
    fitted = rows.T @ torch.linalg.lstsq(rows.T, change[:, None]).solution
    return float((change - fitted[:, 0]).norm() / change.norm())


def loss(network: Network, images: Tensor, duals: Tensor, change: Tensor) -> float:
    """‖Δθ − Σ α ∇f‖² / ‖Δθ‖²."""
    return float((change - combination(network, images, duals)).square().sum() / change.square().sum())
