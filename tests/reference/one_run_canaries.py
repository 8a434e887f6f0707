"""Decoding by covariance matrices of everything that was released, and small audits of vectors without images."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from attacks.one_run_canaries import coins, decoded
from fedsim.audit.statistics.one_run import Guesses
from fedsim.audit.statistics.one_run_guesses import fixed_guesses
from fedsim.privacy.mechanism import Mechanism, release
from fedsim.privacy.noise import SeededNoise
from fedsim.privacy.observed import Look, class_means, crafted, look
from fedsim.seeding import Streams, numpy_stream, stream

CLASSES, WIDTH = 4, 112
Records = tuple[torch.Tensor, torch.Tensor]
"""Vectors and labels."""
Ask = Callable[[Records, torch.Tensor, Mechanism, Streams], list[torch.Tensor]]
"""(all records, centre, mechanism, streams) → what every release says."""


def best_linear(looks: Sequence[Look], labels: np.ndarray, deviation: float) -> np.ndarray:
    """E b + Cov(b, ṽ) Cov(ṽ)⁻¹ (ṽ − E ṽ) of independent coins, with ṽ all numbers of all releases."""
    columns, released, known = [], [], []
    for one in looks:
        placed = np.zeros((len(labels), *one.values.shape))
        for i, label in enumerate(labels):
            placed[i, label] = one.rows[i].numpy()
        columns.append(placed.reshape(len(labels), -1))
        released.append(one.values.numpy().ravel())
        known.append(one.rest.numpy().ravel())
    u = np.concatenate(columns, axis=1).T  # numbers x canaries
    bits = np.eye(len(labels)) / 4
    covariance = u @ bits @ u.T + deviation**2 * np.eye(len(u))
    mean = np.concatenate(known) + u @ np.full(len(labels), 0.5)
    return 0.5 + bits @ u.T @ np.linalg.inv(covariance) @ (np.concatenate(released) - mean)


def honest(releases: int) -> Ask:
    """So many releases of the library."""

    def ask(data: Records, centre: torch.Tensor, mechanism: Mechanism, streams: Streams) -> list[torch.Tensor]:
        noises = [SeededNoise(streams.generator("noise", j)) for j in range(releases)]
        return [release([data], centre, CLASSES, mechanism, noise).values for noise in noises]

    return ask


@dataclass(frozen=True)
class Audited:
    """A small audit: what the adversary holds, what it makes of it, what was so."""

    looks: list[Look]
    labels: torch.Tensor
    scores: np.ndarray
    included: np.ndarray

    @property
    def guesses(self) -> Guesses:
        """A tenth in, a tenth out."""
        tenth = len(self.scores) // 10
        return fixed_guesses(self.scores, self.included, tenth, tenth, numpy_stream(0))


@lru_cache
def world(canaries: int, clip: float) -> tuple[Records, Records, torch.Tensor]:
    """Forty records of three of the four classes, crafted canaries of all four, and a centre."""
    rng = stream(canaries, "world")
    centre = torch.randn(WIDTH, generator=rng, dtype=torch.float64)
    vectors, of = 2 * torch.randn((40, WIDTH), generator=rng, dtype=torch.float64), torch.arange(40) % 3
    labels = torch.arange(canaries) % CLASSES
    return (
        (vectors, of),
        (centre + crafted(labels, class_means(vectors - centre, of, CLASSES), clip, rng), labels),
        centre,
    )


def audited(ask: Ask, mechanism: Mechanism, canaries: int, streams: Streams) -> Audited:
    """The same vectors in every release; `mechanism` is what is claimed, `streams` are of coins and noise."""
    (vectors, of), (rows, labels), centre = world(canaries, mechanism.clip)
    b = coins(canaries, streams.generator("coins"))
    values = ask((torch.cat([vectors, rows[b]]), torch.cat([of, labels[b]])), centre, mechanism, streams)
    looks = [look(one, (vectors, of), rows, centre, mechanism) for one in values]
    return Audited(looks, labels, decoded(looks, labels, mechanism.deviation).numpy(), b.numpy())
