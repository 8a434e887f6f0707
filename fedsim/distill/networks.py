"""Where the networks ψ of a matching step come from: fresh draws, draws around w_r, or a pool with cached real means.

Perturbation is P_w(w_r) of FedDM: w = w_r + Δ over the trainable weights, Δ ~ N(0, I) scaled back to the ball of radius
ρ. In more than a few dimensions ‖Δ‖ exceeds any useful ρ, so w lies on the sphere. ρ is absolute, or relative to ‖w_r‖.
A public re-implementation of FedDM takes ρ = 5, which is 0.22 ‖w_r‖ for a freshly initialised ConvNet-3-128 (most of it
the ones of its norm layers) and about twice that for a width of 32.

The pool draws `size` pairs (network, augmentation) once and computes the real class means of each pair once: in the
papers' loops the real side costs ten times the synthetic side. A mean is valid for its pair only, so the pair is drawn
together. It replaces P_w by an empirical distribution over `size` members; `refresh` renews them while it is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from pydantic import Field, model_validator
from torch import Tensor

from fedsim.config import Section
from fedsim.data.augment import Config as DSAConfig
from fedsim.data.augment import draw as draw_augmentation
from fedsim.distill.base import Task
from fedsim.models.functional import flatten, trainable_names, unflatten
from fedsim.seeding import Streams
from fedsim.types import Params, UserError


class Radius(Section):
    """Radius ρ of the ball that networks are drawn from; give exactly one of the two."""

    absolute: float | None = Field(default=None, gt=0)
    """ρ itself."""
    relative: float | None = Field(default=None, gt=0)
    """ρ as a multiple of ‖w_r‖."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Radius:
        if (self.absolute is None) == (self.relative is None):
            raise ValueError("give exactly one of absolute and relative")
        return self

    def around(self, norm: float) -> float:
        """ρ around weights of that norm."""
        return self.absolute if self.absolute is not None else (self.relative or 0.0) * norm


@dataclass
class Draw:
    """One network of a step with what belongs to it."""

    params: Params
    """Weights."""
    augmentation: Float[Tensor, "k p"] | None
    """DSA draws, a row per class; None without augmentation."""
    real_sums: tuple[Float[Tensor, "s d"], Int64[Tensor, "s"]] | None
    """Cached real class sums and counts of this very pair; None: compute them now."""


RealSums = Callable[[Params, Tensor | None, torch.Generator], tuple[Tensor, Tensor]]
"""(weights, augmentation, rng) → real class sums and counts; given by the method, which knows what it matches."""


@runtime_checkable
class NetworkSource(Protocol):
    """Supplies the network of each step."""

    def prepare(self, task: Task, real_sums: RealSums, rng: torch.Generator) -> Any:
        """What is drawn once, as a dataclass of tensors, or None."""
        ...

    def draw(self, task: Task, prepared: Any, rng: torch.Generator, step: int) -> Draw:
        """The network of step number `step`, from 0."""
        ...


class FreshConfig(Section):
    """A newly initialised network every step, as in Distribution Matching."""

    name: Literal["fresh"] = "fresh"


class Fresh:
    """ψ ~ initialisation, independently every step."""

    Config = FreshConfig

    def __init__(self, config: FreshConfig, augment: DSAConfig | None) -> None:
        self.config = config
        self.augment = augment

    def prepare(self, task: Task, real_sums: RealSums, rng: torch.Generator) -> None:
        """Nothing is kept."""

    def draw(self, task: Task, prepared: None, rng: torch.Generator, step: int) -> Draw:
        """A new network and a new augmentation."""
        params = {name: value.to(task.device) for name, value in task.fresh(rng).items()}
        return Draw(params, _augmentation(self.augment, task.num_classes, rng), None)


class PerturbConfig(Section):
    """A perturbation of the server's weights every step, as in FedDM."""

    name: Literal["perturb"] = "perturb"
    radius: Radius = Radius(absolute=5.0)
    """ρ; a public re-implementation of FedDM uses 5."""


class Perturb:
    """w ~ P_w(w_r), independently every step."""

    Config = PerturbConfig

    def __init__(self, config: PerturbConfig, augment: DSAConfig | None) -> None:
        self.config = config
        self.augment = augment

    def prepare(self, task: Task, real_sums: RealSums, rng: torch.Generator) -> None:
        """Nothing is kept."""

    def draw(self, task: Task, prepared: None, rng: torch.Generator, step: int) -> Draw:
        """A new perturbation and a new augmentation."""
        return Draw(perturb(task, self.config.radius, rng), _augmentation(self.augment, task.num_classes, rng), None)


class PoolConfig(Section):
    """A fixed set of (network, augmentation) pairs with their real class means."""

    name: Literal["pool"] = "pool"
    size: int = Field(default=20, ge=1)
    """Pairs in the pool."""
    around: Literal["fresh", "server"] = "fresh"
    """`fresh`: new initialisations; `server`: perturbations of w_r."""
    radius: Radius = Radius(absolute=5.0)
    """ρ, used with `around: server`."""
    shared: bool = False
    """One pool per round for all clients; those of one node (`participation.per_node`) are condensed together."""
    refresh: int = Field(default=0, ge=0)
    """Steps in which every pair is replaced once, one after another; 0: the pool stays as it is."""

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
        shared = task.shared if self.config.shared else None
        if self.config.shared and shared is None:
            raise UserError("method.networks.shared: there is no round of clients to share with; give shared: false")
        source = self._members()
        for index in range(self.config.size):
            rng = shared.generator("member", index) if shared is not None else rng
            member = source.draw(task, None, rng, 0)
            total, number = real_sums(member.params, member.augmentation, rng)
            flats.append(flatten(member.params))
            augmentations.append(member.augmentation if member.augmentation is not None else torch.empty(0))
            sums.append(total)
            counts.append(number)
        stacked = torch.stack(augmentations) if self.augment is not None else None
        later = shared or Streams(int(torch.randint(2**62, (), generator=rng)))
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
            rng = prepared.later.generator("replacement", number)
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


def perturb(task: Task, radius: Radius, rng: torch.Generator) -> Params:
    """w_r + Δ over the trainable weights, Δ ~ N(0, I) scaled by min(ρ/‖Δ‖, 1); running statistics stay."""
    if task.start is None:
        raise UserError(
            "method.networks draws around the server's weights, which a central run does not have; "
            "valid here: networks: fresh, or pool with around: fresh"
        )
    moving = {name: task.start[name] for name in trainable_names(task.network)}
    centre = flatten(moving)
    noise = torch.randn(centre.shape, generator=rng).to(centre.device)
    rho = radius.around(float(centre.norm()))
    noise *= min(rho / max(float(noise.norm()), math.ulp(0.0)), 1.0)
    moved = {name: value.to(task.device, copy=True) for name, value in task.start.items()}  # batch norm writes in them
    return moved | {name: value.to(task.device) for name, value in unflatten(centre + noise, moving).items()}


def _augmentation(config: DSAConfig | None, num_classes: int, rng: torch.Generator) -> Tensor | None:
    return draw_augmentation(config, num_classes, rng) if config is not None else None
