"""The exact gradient of what a training ends in, by its images and its step sizes, in the memory of one step.

    forward    θ_{t+1} = θ_t − η_t g_t                                   g_t = ∇_θ 1/|B_t| Σ_{i ∈ B_t} ℓ(θ_t; x_i, y_i)
    backward   λ_T = ∇L(θ_T)                                             L a loss of the last weights
               ∂L/∂η_t = −⟨λ_{t+1}, g_t⟩
               ∂L/∂x_i = −Σ_{t: i ∈ B_t} η_t ∂⟨λ_{t+1}, g_t⟩/∂x_i
               λ_t = λ_{t+1} − η_t ∂⟨λ_{t+1}, g_t⟩/∂θ_t                  λ_t = ∂L/∂θ_t

    x_i, y_i  images and labels     B_t  the batch of step t     η_t  its step size     ℓ  cross-entropy

That is what differentiating through all T steps at once gives, term by term. Kept of the way forward are the T weight
vectors; the graph of a step is made again on the way back and let go before the next, in pieces of the runner's rows.
A batch norm would carry statistics from step to step, and let pieces see one another: callers refuse it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from fedsim.distill.class_gradients import Gradients
from fedsim.distill.inner_training import put, sgd_step, take
from fedsim.models.execution import Runner, wide
from fedsim.models.functional import call, flatten, unflatten
from fedsim.types import Params


class Step(NamedTuple):
    """One step of a training: θ ← θ − η ∇ℓ on these images."""

    rows: Int64[Tensor, "b"]
    """B_t, numbers of images; not empty."""
    rate: float
    """η_t."""


class Back(NamedTuple):
    """Derivatives of L."""

    images: Float[Tensor, "m c h w"]
    """∂L/∂x; 0 for an image that is in no batch."""
    rates: Float[Tensor, "t"]
    """∂L/∂η, one for each step."""


def forward(
    runner: Runner,
    start: Params,
    images: Float[Tensor, "m c h w"],
    labels: Int64[Tensor, "m"],
    steps: Sequence[Step],
) -> list[Float[Tensor, "p"]]:
    """θ_0 … θ_T as vectors; the runner holds θ_T afterwards. Its weights ask for a gradient."""
    path = [flatten(start).detach().to(images.device, copy=True)]
    put(runner, path[0])
    for step in steps:
        sgd_step(runner, images[step.rows], labels[step.rows], lr=step.rate)
        path.append(torch.empty_like(path[0]))
        take(runner, path[-1])
    return path


def backward(
    runner: Runner,
    path: Sequence[Float[Tensor, "p"]],
    last: Gradients,
    images: Float[Tensor, "m c h w"],
    labels: Int64[Tensor, "m"],
    steps: Sequence[Step],
) -> Back:
    """∂L/∂x and ∂L/∂η, from the way forward and λ_T = `last`, by the names of the trained weights."""
    like, adjoint = runner.network.state_dict(), dict(last)
    found, rates = torch.zeros_like(images), []
    for weights, step in zip(reversed(path[:-1]), reversed(steps), strict=True):
        batch, targets = images[step.rows], labels[step.rows]
        along, by_images, by_weights = _products(runner, unflatten(weights, like), batch, targets, adjoint)
        found.index_add_(0, step.rows, by_images, alpha=-step.rate)
        rates.append(-along)
        adjoint = {name: value - step.rate * by_weights[name] for name, value in adjoint.items()}
    return Back(found, torch.stack(rates[::-1]) if rates else images.new_zeros(0))


def _products(
    runner: Runner, weights: Params, images: Tensor, labels: Tensor, adjoint: Gradients
) -> tuple[Tensor, Tensor, Gradients]:
    """⟨λ, g⟩ of one batch, and its derivatives by the images and the weights."""
    leaves = {name: weights[name].detach().clone().requires_grad_() for name in adjoint}
    frozen = {name: value.detach() for name, value in weights.items()}
    total, by_images, by_weights = images.new_zeros(()), [], dict.fromkeys(adjoint, images.new_zeros(()))
    size = runner.rows(len(images))
    for piece, targets in zip(images.split(size), labels.split(size), strict=True):
        pixels = piece.detach().requires_grad_()
        with runner.autocast(pixels.device.type):
            logits = wide(call(runner.network, frozen | leaves, "forward", pixels))
        loss = F.cross_entropy(logits, targets, reduction="sum") / len(images)
        gradients = torch.autograd.grad(loss, list(leaves.values()), create_graph=True)
        along = torch.stack([(adjoint[name] * one).sum() for name, one in zip(leaves, gradients, strict=True)]).sum()
        own, *others = torch.autograd.grad(along, [pixels, *leaves.values()], allow_unused=True, materialize_grads=True)
        total = total + along.detach()
        by_images.append(own)
        by_weights = {name: by_weights[name] + one for name, one in zip(leaves, others, strict=True)}
    return total, torch.cat(by_images), by_weights
