"""Class means of pixels: one image per class, by no descent; under `privacy` the control that a method must clear.

    s_c = a + Σ_{i: y_i = c} (x_i − a) / n_c                             without privacy: the mean image, a drops out
    s_c = a + ṽ_c / max(n̂_c, n_min),  ṽ, n̂ noisy (privacy/mechanism.py)   with it: one release, clamped to the pixel box

    x  pixels in 0..1      a  public grey level, the centre that vectors are clipped around      n_min  `privacy.least`

Nothing is learned, so whatever condenses under the same (ε, δ) has to be above it to have bought anything. A record's
vector is its pixels: with a = ½ its norm is at most √(chw)/2 whatever the image, and a clip there cuts nothing.

Source  the Gaussian mechanism on class sums and counts; a control, of no paper.
Code    none read.
Differs classes with a noisy count under n_min are left out, as in private_dm.py; rounded to bytes as every set.
Reduces σ → 0, C ≥ √(chw)/2: the mean images.
Cost    one pass over the pixels; no network.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Float64, Int64
from pydantic import Field
from torch import Tensor, nn

from fedsim.config import Section
from fedsim.data.synthetic import SyntheticSet
from fedsim.distill.base import Task
from fedsim.distill.cost import Passes
from fedsim.distill.distribution.private_dm import believed
from fedsim.distill.pixels import finish
from fedsim.privacy.features import Config as Privacy
from fedsim.privacy.owner import ROWS, PrivateImages
from fedsim.types import UserError


class Config(Section):
    """Settings of the class means."""

    name: Literal["class_means"] = "class_means"
    ipc: Literal[1] = 1
    """A class has one mean."""
    iterations: Literal[1] = 1
    """A mean takes one step."""
    init: Literal["mean"] = "mean"
    """What the set says of its origin; the mean of a class of one image is that image."""
    centre: float = Field(default=0.5, ge=0, le=1)
    """a: grey level, 0..1, that pixels are clipped around under privacy; public, so chosen without the data."""


@dataclass
class State:
    """The means of the classes that get one."""

    pixels: Float[Tensor, "m c h w"]
    """In 0..1."""
    labels: Int64[Tensor, "m"]


class ClassMeans:
    """The mean image of every class that is there."""

    Config = Config

    def __init__(self, config: Config) -> None:
        self.config = config

    def prepare(self, task: Task, rng: torch.Generator) -> None:
        """Nothing is kept."""

    def init(self, task: Task, artifacts: None, rng: torch.Generator) -> State:
        """The means."""
        sums, counts = task.real.class_sums(pixels_of(task), 0, rng, rows=ROWS)
        means = sums[task.present.to(sums.device)] / counts[task.present.to(sums.device)].unsqueeze(1)
        return State(means.view(-1, *task.image_shape), task.present)

    def step(self, task: Task, artifacts: None, state: State, rng: torch.Generator) -> dict[str, Tensor]:
        """Nothing to improve."""
        return {}

    def result(self, task: Task, state: State) -> SyntheticSet:
        """The means in bytes."""
        budget = torch.bincount(state.labels.cpu(), minlength=len(task.budget))
        inputs = task.normalise.inputs(state.pixels)
        return finish(replace(task, budget=budget), inputs, method=self.config.name, init=self.config.init)

    def passes(self, counts: Int64[Tensor, "k"]) -> Passes:
        """No network sees an image."""
        return Passes()


@dataclass
class PrivateState(State):
    """And how many records each stands for."""

    counts: Float64[Tensor, "k"]
    """n̂."""


class PrivateClassMeans(ClassMeans):
    """The same of a private owner, from one noisy release under `privacy: features`."""

    def __init__(self, config: Config, privacy: Privacy) -> None:
        super().__init__(config)
        self.privacy = privacy

    def init(self, task: Task, artifacts: None, rng: torch.Generator) -> PrivateState:
        """Ask for the noisy sums; the question is the same in every round, so that they are released once."""
        if not isinstance(task.real, PrivateImages):
            raise UserError("privacy: got a client's open images; valid: PrivateImages, which only noisy sums leave")
        centre = torch.full((torch.Size(task.image_shape).numel(),), self.config.centre, device=task.device)
        question = f"class means of pixels around {self.config.centre}"
        found = task.real.release(question, pixels_of(task), centre, nn.Identity(), rows=ROWS)
        kept = torch.nonzero(believed(found.counts, self.privacy.least)).flatten()
        means = (found.targets(self.privacy.least)[kept] + self.config.centre).clamp(0, 1)
        return PrivateState(means.to(torch.float32).view(-1, *task.image_shape).to(task.device), kept, found.counts)

    def result(self, task: Task, state: PrivateState) -> SyntheticSet:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The means in bytes, each with its class's noisy count as weight (as in private_dm.py)."""
        found = super().result(task, state)
        if not self.privacy.weighted:
            return found
        return replace(found, weights=state.counts.clamp(1.0, float(self.privacy.public_bound))[found.labels].float())


def pixels_of(task: Task) -> Callable[[Tensor, Tensor], Tensor]:
    """Network inputs and their labels to pixels in 0..1, in rows."""

    def embed(images: Float[Tensor, "n c h w"], labels: Int64[Tensor, "n"]) -> Float[Tensor, "n d"]:
        return task.normalise.pixels(images).flatten(1)

    return embed
