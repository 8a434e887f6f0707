"""Wide networks in the NTK parametrisation, and their training: linear in the weights, or as networks are trained."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.audit.tangent import along, combination
from fedsim.models.functional import call, state, trainable_names
from fedsim.models.mlp import MLP
from fedsim.models.mlp import Config as MLPConfig
from fedsim.models.network import Network, build_network, draw_normal
from fedsim.seeding import stream
from fedsim.types import Params

SHAPE = (1, 28, 28)
BIAS = 0.1
"""Weight of biases beside weights, as in the NTK literature."""
FITTED = 1e-4
"""Mean squared error at which training ends."""


class WideLinear(nn.Module):
    """gain · W x / √d + BIAS · b with all entries from N(0, 1)."""

    def __init__(self, inputs: int, outputs: int, gain: float) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(outputs, inputs)), nn.Parameter(torch.empty(outputs))
        self.scale = gain / inputs**0.5

    def forward(self, rows: Tensor) -> Tensor:
        """(n, inputs) → (n, outputs)."""
        return F.linear(rows, self.weight * self.scale, self.bias * BIAS)


class WideMLP(Network):
    """MLP with the same settings, so parametrised that it grows lazy with its width."""

    def __init__(self, config: MLPConfig, image_shape: tuple[int, int, int], num_classes: int) -> None:
        channels, height, width = image_shape
        sizes = [channels * height * width] + [config.width] * config.depth
        blocks = [
            nn.Sequential(nn.Flatten(), WideLinear(size, config.width, 2**0.5), nn.ReLU())
            for size in sizes[: config.depth]
        ]
        super().__init__(blocks, config.width, num_classes)
        self.head = WideLinear(config.width, num_classes, 1.0)  # pyright: ignore[reportAttributeAccessIssue]

    def reset(self, rng: torch.Generator) -> None:
        """All from N(0, 1)."""
        for parameter in self.parameters():
            draw_normal(parameter, 1.0, rng)


@dataclass(frozen=True)
class Problem:
    """One training: from θ₀, n records as network inputs, targets (n, k)."""

    network: Network
    params: Params
    images: Tensor
    targets: Tensor

    def outputs(self, params: Params, images: Tensor) -> Tensor:
        """f_θ − f_θ₀: a network that starts at 0."""
        return call(self.network, params, "forward", images) - call(self.network, self.params, "forward", images)


def problem(kind: str, width: int, depth: int, seed: int, images: Tensor, targets: Tensor) -> Problem:
    """`wide` or `usual` (fedsim's own MLP), weights drawn on the CPU."""
    config = MLPConfig(depth=depth, width=width)
    made = build_network(
        {"wide": WideMLP, "usual": MLP}[kind], config, SHAPE, targets.shape[1], stream(seed, "weights")
    )
    made = made.to(images.device).eval()
    return Problem(made, state(made), images, targets)


def linear(given: Problem, iterations: int = 1000) -> Params:
    """θ_T of the network that is linear in θ, fitted to the end: Δθ = Jᵀα, J Jᵀ α = targets, by conjugate gradients."""
    duals = torch.zeros_like(given.targets)
    left, way = given.targets, given.targets
    for _ in range(iterations):
        if left.square().mean() < FITTED**2:
            break
        step = combination(given.network, given.params, given.images, way)
        moved = along(given.network, given.params, given.images, step)
        size = left.square().sum() / (way * moved).sum()
        duals, after = duals + size * way, left - size * moved
        way, left = after + after.square().sum() / left.square().sum() * way, after
    change = combination(given.network, given.params, given.images, duals)
    return {name: given.params[name] + change[name] for name in change}


def trained(given: Problem, iterations: int = 20000) -> tuple[Params, float, int]:
    """θ_T by full-batch gradient descent with momentum 0.9 on ½ Σ (f − target)²; its mean squared error and steps."""
    learning_rate = 0.2 / sharpest(given)
    names = trainable_names(given.network)
    weights = {name: given.params[name].clone() for name in names}
    speed = {name: torch.zeros_like(value) for name, value in weights.items()}
    zero = call(given.network, given.params, "forward", given.images)

    def loss(weights: Params) -> Tensor:
        found = call(given.network, given.params | weights, "forward", given.images) - zero
        return (found - given.targets).square().sum() / 2

    step, error = 0, float("inf")
    while step < iterations:
        gradient, value = torch.func.grad_and_value(loss)(weights)
        if step % 20 == 0:
            error = 2 * float(value) / given.targets.numel()
            if not error > FITTED:
                break
        for name in names:
            speed[name].mul_(0.9).add_(gradient[name])
            weights[name].sub_(speed[name], alpha=learning_rate)
        step += 1
    return weights, error, step


def sharpest(given: Problem, iterations: int = 20) -> float:
    """Largest eigenvalue of J Jᵀ, by power iteration."""
    way, value = torch.ones_like(given.targets) + 0.1 * given.targets, 1.0
    for _ in range(iterations):
        way = way / way.norm()
        way = along(
            given.network, given.params, given.images, combination(given.network, given.params, given.images, way)
        )
        value = float(way.norm())
    return value
