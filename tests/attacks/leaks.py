"""Small leaks that the tests of the attacks share: a network, records, and the gradients that they leave."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from attacks.gradient_matching import Observed, gradient, stack
from fedsim.config import Section
from fedsim.data.transforms import Normalise
from fedsim.models.functional import state
from fedsim.models.lenet import LeNetDLG, LeNetDLGConfig
from fedsim.models.network import Network, build_network
from fedsim.seeding import stream

SHAPE, CLASSES = (1, 8, 8), 4
PLAIN = Normalise((0.0,), (1.0,))
SIGMOID = LeNetDLGConfig(depth=1)


@dataclass(frozen=True)
class Leak:
    """What the attacker sees, and what it does not."""

    observed: Observed
    pixels: Tensor
    """(b, s, c, h, w)."""
    labels: Tensor
    """(b, s)."""
    networks: list[Network]
    """The network of each problem; one and the same where θ is shared."""


def leak(
    problems: int,
    records: int = 1,
    own: bool = False,
    architecture: type[Network] = LeNetDLG,
    config: Section = SIGMOID,
    normalise: Normalise = PLAIN,
    dtype: torch.dtype = torch.float32,
) -> Leak:
    """Gradients of random images with random labels; with `own`, each of a network of its own."""
    count = problems if own else 1
    networks = [build_network(architecture, config, SHAPE, CLASSES, stream(seed)).to(dtype) for seed in range(count)]
    each = [networks[index % count] for index in range(problems)]
    pixels = torch.rand(problems, records, *SHAPE, generator=stream(1)).to(dtype)
    labels = torch.randint(CLASSES, (problems, records), generator=stream(2))
    inputs = normalise.inputs(pixels.flatten(0, 1)).view_as(pixels)
    nothing = torch.zeros(0)
    targets = [
        gradient(network, state(network), image, label, nothing)
        for network, image, label in zip(each, inputs, labels, strict=True)
    ]
    params = stack([state(network) for network in networks]) if own else state(networks[0])
    return Leak(Observed(networks[0], params, stack(targets), SHAPE, CLASSES, normalise, records), pixels, labels, each)
