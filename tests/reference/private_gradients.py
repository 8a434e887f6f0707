"""What a private owner releases of gradients, record by record and number by number; and an owner without noise."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedsim.data.images import Images
from fedsim.distill.base import Task
from fedsim.privacy.ledger import Ledger
from fedsim.privacy.mechanism import Mechanism
from fedsim.privacy.noise import Noise, SeededNoise
from fedsim.privacy.owner import PrivateImages
from fedsim.seeding import Streams, stream
from tests.reference import dm as problem

COUNTS = (5, 0, 1, 3)
MECHANISM = Mechanism(clip=0.7, kappa=0.25, sigma=0.5)
CLEAR = Mechanism(clip=1e3, kappa=1e3, sigma=1e-7)
"""No clipping, no noise to speak of."""
Row = Callable[[Tensor, int], Tensor]
"""One normalised image (c, h, w) and its class to its vector."""


class Silent(SeededNoise):
    """No noise at all."""

    def normal(self, *shape: int) -> Tensor:
        return torch.zeros(shape, dtype=torch.float64)


def silent(question: str) -> Noise:
    return Silent(stream(0))


def seeded(question: str) -> Noise:
    return SeededNoise(Streams(0).at("noise").generator(question))


def task(
    folder: Path, mechanism: Mechanism = MECHANISM, *, counts: Sequence[int] = COUNTS, noise: Any = silent,
    ipc: int = 2, chunk: int = 0, real: Images | None = None, network: Any = None,
) -> Task:  # fmt: skip
    """The reference problem around the server's weights, owned privately; every class gets `ipc` images."""
    classes = len(counts)
    open_task = problem.task(network or problem.convnet(classes=classes), counts, around=True, chunk=chunk)
    images = problem.images(counts) if real is None else real
    owner = PrivateImages(
        images, classes, problem.NORMALISE, torch.device("cpu"), mechanism, noise,
        Ledger(folder, 1e-5, "add_remove"),
    )  # fmt: skip
    return replace(open_task, real=owner, budget=torch.full((classes,), ipc))


def charges(task: Task) -> int:
    """Releases paid so far."""
    assert isinstance(task.real, PrivateImages)
    return sum(one.number for one in task.real.ledger.charges)


def doubled(state: Any) -> Any:
    """A first state whose images are in float64 and well inside the box."""
    inside = 0.2 * state.pixels.double() + 0.3
    return replace(state, pixels=inside, first=inside * 0, second=inside * 0)


def cut(row: Tensor, mechanism: Mechanism) -> Tensor:
    """A row clipped to C and cut towards zero to the grid, number by number."""
    values = row.double().tolist()
    norm = math.sqrt(sum(value * value for value in values))
    factor = min(1.0, mechanism.clip * (1 - 2.0**-40) / norm) if norm else 0.0
    steps = [math.trunc(value * factor / mechanism.grid) for value in values]
    return torch.tensor([step * mechanism.grid for step in steps], dtype=torch.float64)


def class_sums(images: Images, classes: int, row: Row, mechanism: Mechanism) -> tuple[list[Tensor | float], list[int]]:
    """Σ of cut rows of each class (0.0 of none), and how many there are."""
    sums: list[Tensor | float] = [0.0] * classes
    counts = [0] * classes
    for pixel, label in zip(images.pixels, images.labels.tolist(), strict=True):
        image = problem.NORMALISE(pixel[None])[0].double()
        sums[label] = sums[label] + cut(row(image, label), mechanism)
        counts[label] += 1
    return sums, counts
