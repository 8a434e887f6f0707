"""A pool of networks with their real class means, in place of a new network every step.

It draws `size` pairs (network, augmentation) once and computes the real class means of each pair once: in the papers'
loops the real side costs ten times the synthetic side. A mean is valid for its pair only, so the pair is drawn
together. The pool replaces the distribution of networks by an empirical one over `size` members; `refresh` renews them
while it is used. How many are needed was measured (docs/benchmarks.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor

from fedsim.config import Section
from fedsim.data.augment import Config as DSAConfig
from fedsim.distill.base import Task
from fedsim.distill.networks import Draw, Fresh, FreshConfig, Perturb, PerturbConfig, Radius, RealSums
from fedsim.models.functional import flatten, unflatten
from fedsim.seeding import Streams
from fedsim.types import UserError


class PoolConfig(Section):
    """A fixed set of (network, augmentation) pairs with their real class means."""

    name: Literal["pool"] = "pool"
    size: int = Field(default=20, ge=1)
    """Pairs in the pool."""
    around: Literal["fresh", "server"] = "fresh"
    """`fresh`: new initialisations; `server`: perturbations of w_r."""
    radius: Radius = Radius(absolute=5.0)
    """ρ, used with `around: server`."""
    refresh: int = Field(default=0, ge=0)
    """Steps in which every pair is replaced once, one after another; 0: the pool stays as it is."""
    shared: bool = False
    """One pool per round for all clients, who take every step under the same pair: the clients of one node
    (`participation.per_node`) are then condensed together."""

    def drawn(self, steps: int) -> int:
        """Pairs drawn in so many steps."""
        return self.size + ((steps - 1) * self.size // self.refresh if self.refresh else 0)


@dataclass
class PoolState:
    """The pairs, stacked; sums of each class, or of each of s segments (owner, class)."""

    flats: Float[Tensor, "size p"]
    augmentations: Float[Tensor, "size k q"] | None
    sums: Float[Tensor, "size s d"]
    counts: Int64[Tensor, "size s"]
    later: Streams
    """Random streams of the replacements."""
    real_sums: RealSums
    """Computes the sums of a replacement."""
    replaced: int = 0
    """Replacements made so far; which they are follows from the step alone, so that a resumed loop finds its pool."""


class Pool:
    """(ψ, A) uniform over `size` pairs drawn once."""

    Config = PoolConfig

    def __init__(self, config: PoolConfig, augment: DSAConfig | None) -> None:
        self.config = config
        self.augment = augment

    def prepare(self, task: Task, real_sums: RealSums, rng: torch.Generator) -> PoolState:
        """Draw the pairs and pass the real images through each once."""
        flats, augmentations, sums, counts = [], [], [], []
        source = self._members()
        if self.config.shared and task.shared is None:
            raise UserError("method.networks.shared: one pool for all clients of a round, and here is no round of "
                            "clients; valid here: shared: false")  # fmt: skip
        for index in range(self.config.size):
            if self.config.shared and task.shared is not None:
                rng = task.shared.generator("member", index)
            member = source.draw(task, None, rng, 0)
            total, number = real_sums(member.params, member.augmentation, rng)
            flats.append(flatten(member.params))
            augmentations.append(member.augmentation if member.augmentation is not None else torch.empty(0))
            sums.append(total)
            counts.append(number)
        stacked = torch.stack(augmentations) if self.augment is not None else None
        if self.config.shared and task.shared is not None:
            later = task.shared.at("replacements")  # the same for every client, whatever it drew of its images
        else:
            later = Streams(int(torch.randint(2**62, (), generator=rng)))
        return PoolState(torch.stack(flats), stacked, torch.stack(sums), torch.stack(counts), later, real_sums)

    def draw(self, task: Task, prepared: PoolState, rng: torch.Generator, step: int) -> Draw:
        """One pair, uniformly, after the replacements that are due."""
        self._replace(task, prepared, step)
        index = int(torch.randint(self.config.size, (), generator=rng))
        augmentation = prepared.augmentations[index] if prepared.augmentations is not None else None
        return Draw(
            unflatten(prepared.flats[index], task.network.state_dict()),
            augmentation,
            (prepared.sums[index], prepared.counts[index]),
        )

    def _members(self) -> Fresh | Perturb:
        """Where pairs come from."""
        if self.config.around == "server":
            return Perturb(PerturbConfig(radius=self.config.radius), self.augment)
        return Fresh(FreshConfig(), self.augment)

    def _replace(self, task: Task, prepared: PoolState, step: int) -> None:
        """Replacement q, q = 1, 2 …, is due from step q·refresh/size on and overwrites pair (q − 1) mod size."""
        size = self.config.size
        due = step * size // self.config.refresh if self.config.refresh else 0
        for number in range(max(prepared.replaced, due - size) + 1, due + 1):  # older ones are overwritten themselves
            rng = prepared.later.generator(number)
            member, index = self._members().draw(task, None, rng, step), (number - 1) % size
            prepared.sums[index], prepared.counts[index] = prepared.real_sums(member.params, member.augmentation, rng)
            prepared.flats[index] = flatten(member.params)
            if prepared.augmentations is not None and member.augmentation is not None:
                prepared.augmentations[index] = member.augmentation
        prepared.replaced = max(prepared.replaced, due)


def radius_of(networks: object) -> Radius | None:
    """The radius that a source's settings draw around w_r with; None for sources that do not."""
    if isinstance(networks, PerturbConfig) or (isinstance(networks, PoolConfig) and networks.around == "server"):
        return networks.radius
    return None
