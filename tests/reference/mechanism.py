"""What any release must keep, tried on thousands of random neighbours; and the release as a literal loop."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from fedsim.privacy.mechanism import Mechanism, NoisySum, release
from fedsim.privacy.noise import SeededNoise
from fedsim.seeding import stream

CLASSES, WIDTH = 3, 4
CENTRE = torch.tensor([0.5, -1.0, 0.0, 2.0])


@dataclass
class Records:
    """Vectors and their classes."""

    vectors: Tensor
    labels: Tensor

    def without(self, index: int) -> Records:
        keep = torch.arange(len(self.labels)) != index
        return Records(self.vectors[keep], self.labels[keep])

    def replaced(self, index: int, other: Records) -> Records:
        vectors, labels = self.vectors.clone(), self.labels.clone()
        vectors[index], labels[index] = other.vectors[0], other.labels[0]
        return Records(vectors, labels)


Release = Callable[[Records, Mechanism, SeededNoise], NoisySum]
"""A release of records: the library's, or a planted bug."""


def by_the_library(records: Records, mechanism: Mechanism, noise: SeededNoise) -> NoisySum:
    pieces = zip(records.vectors.split(2), records.labels.split(2), strict=True) if len(records.labels) else []
    return release(pieces, CENTRE, CLASSES, mechanism, noise)


def records(number: int, rng: torch.Generator) -> Records:
    """Vectors near the centre and far from it, and a few that nobody would send by accident."""
    vectors = torch.randn(number, WIDTH, generator=rng) * 10 ** (2 * torch.randn(number, 1, generator=rng))
    odd = torch.randint(0, 12, (number,), generator=rng)
    for which, value in ((0, 0.0), (1, math.inf), (2, math.nan), (3, 3e38), (4, -math.inf)):
        vectors[odd == which, which % WIDTH] = value
    return Records(vectors, torch.randint(0, CLASSES, (number,), generator=rng))


def mechanism_of(rng: torch.Generator) -> Mechanism:
    clip, kappa, sigma = (10 ** (3 * torch.rand(3, generator=rng) - 1.5)).tolist()
    return Mechanism(clip, kappa, sigma)


def neighbours(release: Release, trials: int, seed: int = 0) -> Iterator[tuple[float, float]]:
    """Distances between neighbours' releases under equal noise, over the stated bound: added, replaced."""
    for trial in range(trials):
        rng = stream(seed, trial)
        mechanism, first = mechanism_of(rng), records(1 + trial % 7, rng)
        index = int(torch.randint(len(first.labels), (), generator=rng))
        whole, without, other = (
            release(one, mechanism, SeededNoise(stream(seed, trial, "noise"))).values
            for one in (first, first.without(index), first.replaced(index, records(1, rng)))
        )
        bound = mechanism.sensitivity
        yield float((whole - without).norm()) / bound, float((whole - other).norm()) / (2 * bound)


def farthest_neighbours(release: Release, trials: int) -> tuple[float, float]:
    """The largest of both distances."""
    added, replaced = zip(*neighbours(release, trials), strict=True)
    return max(added), max(replaced)


def literal(records: Records, mechanism: Mechanism) -> list[list[float]]:
    """v, one record and one number at a time."""
    sums = [[0.0] * (WIDTH + 1) for _ in range(CLASSES)]
    for vector, label in zip(records.vectors.double().tolist(), records.labels.tolist(), strict=True):
        row = [value - centre for value, centre in zip(vector, CENTRE.double().tolist(), strict=True)]
        if not all(math.isfinite(value) for value in row):
            row = [0.0] * WIDTH
        norm = math.hypot(*row)
        row = [value * min(1.0, mechanism.clip / norm) if norm else 0.0 for value in row]
        for place, value in enumerate([*row, mechanism.kappa]):
            sums[label][place] += value
    return sums
