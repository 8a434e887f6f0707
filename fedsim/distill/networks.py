"""Where the networks ψ of a matching step come from: fresh draws or draws around w_r (a pool: pool.py).

Perturbation is P_w(w_r) of FedDM: w = w_r + Δ over the trainable weights, Δ ~ N(0, I) scaled back to the ball of radius
ρ. In more than a few dimensions ‖Δ‖ exceeds any useful ρ, so w lies on the sphere. ρ is absolute, or relative to ‖w_r‖.
A public re-implementation of FedDM takes ρ = 5, which is 0.22 ‖w_r‖ for a freshly initialised ConvNet-3-128 (most of it
the ones of its norm layers) and about twice that for a width of 32.
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
        return Draw(params, augmentation(self.augment, task.num_classes, rng), None)


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
        return Draw(perturb(task, self.config.radius, rng), augmentation(self.augment, task.num_classes, rng), None)


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
    moved = {
        name: value.to(task.device, copy=True) for name, value in task.start.items()
    }  # batch norm writes into them
    return moved | {name: value.to(task.device) for name, value in unflatten(centre + noise, moving).items()}


def augmentation(config: DSAConfig | None, num_classes: int, rng: torch.Generator) -> Tensor | None:
    """A DSA draw for every class, or None without DSA."""
    return draw_augmentation(config, num_classes, rng) if config is not None else None
