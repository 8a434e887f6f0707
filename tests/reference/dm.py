"""Distribution Matching and FedDM's client loss as the papers write them, and a small ragged problem to try them on.

The loops go class by class and image by image; each class is augmented in a call of its own, with its own draw.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from fedsim.data.augment import Config as DSAConfig
from fedsim.data.augment import augment
from fedsim.data.images import Images
from fedsim.data.transforms import Normalise
from fedsim.distill.base import Task
from fedsim.distill.real import RealImages
from fedsim.models.convnet import Config as ConvNetConfig
from fedsim.models.convnet import ConvNet
from fedsim.models.execution import Execution, Runner
from fedsim.models.functional import call, state
from fedsim.models.network import Features, Network, build_network
from fedsim.models.norms import Norm
from fedsim.seeding import stream
from fedsim.types import Params

NORMALISE = Normalise((0.3,), (0.4,))
RAGGED = (5, 0, 1, 3)
"""Real images of each class: one class is absent, one holds a single image."""


# --- the equations ---


def mean(rows: Sequence[Tensor]) -> Tensor:
    """1/|B| Σ over the rows, one at a time."""
    total = torch.zeros_like(rows[0])
    for row in rows:
        total = total + row
    return total / len(rows)


def squared_distance(left: Tensor, right: Tensor) -> Tensor:
    """‖left − right‖², one coordinate at a time."""
    total = torch.zeros((), dtype=left.dtype)
    for one, other in zip(left.unbind(), right.unbind(), strict=True):
        total = total + (one - other) ** 2
    return total


Look = Callable[[Tensor], tuple[Tensor, ...]]
"""One class's images (n, c, h, w) to what is matched of them, each (n, d)."""


def loss(
    real: Images, synthetic: Tensor, labels: Tensor, look: Look, dsa: DSAConfig | None, draws: Tensor | None
) -> Tensor:
    """Equation 4 of DM, or 8 of FedDM if `look` gives (h, z): Σ over the classes that have synthetic images."""
    total = torch.zeros((), dtype=torch.float64)
    for label in range(int(labels.max()) + 1):
        theirs, ours = NORMALISE(real.pixels[real.labels == label]), synthetic[labels == label]
        if len(ours) == 0:
            continue
        if dsa is not None and draws is not None:
            theirs, ours = (
                augment(images, torch.zeros(len(images), dtype=torch.int64), draws[label : label + 1], dsa)
                for images in (theirs, ours)
            )
        for real_features, features in zip(look(theirs), look(ours), strict=True):
            total = total + squared_distance(mean(real_features.unbind()), mean(features.unbind()))
    return total


def looking(network: Network, params: Params, match: Sequence[str]) -> Look:
    """Images pass through the network one by one."""

    def look(images: Tensor) -> tuple[Tensor, ...]:
        seen = [call(network, params, "features", image[None]) for image in images]
        return tuple(torch.cat([getattr(one, name) for one in seen]) for name in match)

    return look


# --- the problem ---


class Flat(Network):
    """The identity embedding: pixels in a row."""

    def __init__(self, size: int, num_classes: int) -> None:
        super().__init__([nn.Identity()], size, num_classes)


class DoubleConvNet(ConvNet):
    """A ConvNet that computes in float64, so that equations can be compared tightly."""

    def embed(self, images: Tensor) -> Tensor:
        return super().embed(images.double())

    def features(self, images: Tensor) -> Features:
        return super().features(images.double())


def convnet(norm: Norm = "instance", width: int = 4, seed: int = 0, classes: int = 4) -> Network:
    """ConvNet-1 in float64 for images of 1×6×6."""
    config = ConvNetConfig(depth=1, width=width, norm=norm)
    return build_network(DoubleConvNet, config, (1, 6, 6), classes, stream(seed)).double()


def images(counts: Sequence[int] = RAGGED, *, side: int = 6, seed: int = 0) -> Images:
    """Random bytes, `counts[c]` of each class, in shuffled order."""
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    order = torch.randperm(len(labels), generator=stream(seed, "order"))
    shape = (len(labels), 1, side, side)
    pixels = torch.randint(0, 256, shape, generator=stream(seed, "pixels"), dtype=torch.uint8)
    return Images(pixels, labels[order])


def task(
    network: Network | None = None,
    counts: Sequence[int] = RAGGED,
    *,
    ipc: int = 2,
    chunk: int = 0,
    around: bool = False,
    real: Images | None = None,
) -> Task:
    """A condensation of `images(counts)`; with `around` the server's weights are those of `network`."""
    network = network or convnet(classes=len(counts))
    owner = RealImages(real or images(counts), len(counts), NORMALISE, torch.device("cpu"))
    names = tuple(f"class {label}" for label in range(len(counts)))
    return Task(
        real=owner,
        budget=owner.counts.clamp(max=ipc),
        runner=Runner(network, Execution(chunk)).frozen(),
        normalise=NORMALISE,
        classes=names,
        start=state(network) if around else None,
    )
