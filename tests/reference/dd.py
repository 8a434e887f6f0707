"""Dataset distillation as the paper lists it: record by record, one graph through all steps of the training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fedsim.data.images import Images
from fedsim.models.network import Network
from fedsim.types import Params
from tests.reference import dm
from tests.reference.meta_knowledge import average, record_loss


def part(labels: Sequence[int], step: int, steps: int) -> list[int]:
    """Images whose number within their class is `step` modulo `steps`."""
    seen: dict[int, int] = {}
    found = []
    for row, label in enumerate(labels):
        number = seen.get(label, 0)
        seen[label] = number + 1
        if number % steps == step:
            found.append(row)
    return found


def trained(
    network: Network, params: Params, pixels: Tensor, labels: Sequence[int], rates: Tensor, steps: int
) -> Params:
    """θ_T: T = len(rates) steps, part after part and over again; every step keeps its graph."""
    names = [name for name, _ in network.named_parameters()]
    current = {name: value.clone().requires_grad_(name in names) for name, value in params.items()}
    for number in range(len(rates)):
        rows = part(labels, number % steps, steps)
        if not rows:
            continue
        mean = average([record_loss(network, current, pixels[row], labels[row]) for row in rows])
        gradients = torch.autograd.grad(mean, [current[name] for name in names], create_graph=True)
        current = current | {
            name: current[name] - rates[number] * gradient for name, gradient in zip(names, gradients, strict=True)
        }
    return current


def loss(
    network: Network,
    starts: Sequence[Params],
    real: Images,
    pixels: Tensor,
    labels: Sequence[int],
    rates: Tensor,
    steps: int,
) -> Tensor:
    """1/n Σ ℓ(θ_T; r_i), averaged over the networks, differentiable in `pixels` and `rates`."""
    found = []
    for params in starts:
        last = trained(network, params, pixels, labels, rates, steps)
        for pixel, label in zip(real.pixels, real.labels.tolist(), strict=True):
            found.append(record_loss(network, last, dm.NORMALISE(pixel[None])[0], label))
    return average(found)
