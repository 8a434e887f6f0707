"""Random subset: the control that every condensation result stands beside, at the same images per class.

    S_c = ipc images of class c, uniformly without replacement

Source  the baseline of every condensation paper; Zhao and Bilen, WACV 2023, Table 1, row "Random".
Code    none needed.
Differs nothing.
Reduces ipc ≥ n_c: the whole class.
Cost    none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Int64, UInt8
from pydantic import Field
from torch import Tensor

from fedsim.config import Section
from fedsim.data.synthetic import SyntheticSet
from fedsim.distill.base import Task
from fedsim.distill.cost import Passes


class Config(Section):
    """Settings of the random subset."""

    name: Literal["random"] = "random"
    ipc: int = Field(default=10, ge=1)
    """Images per class; never more than there are."""
    iterations: Literal[1] = 1
    """A selection takes one step."""


@dataclass
class State:
    """The chosen images."""

    pixels: UInt8[Tensor, "m c h w"]


class RandomSubset:
    """Selects; there is nothing to optimise."""

    Config = Config

    def __init__(self, config: Config) -> None:
        self.config = config

    def prepare(self, task: Task, rng: torch.Generator) -> None:
        """Nothing is kept."""

    def init(self, task: Task, artifacts: None, rng: torch.Generator) -> State:
        """The selection."""
        pixels, _ = task.real.subset(task.budget.cpu(), rng)
        return State(pixels)

    def step(self, task: Task, artifacts: None, state: State, rng: torch.Generator) -> dict[str, Tensor]:
        """Nothing to improve."""
        return {}

    def passes(self, counts: Int64[Tensor, "k"]) -> Passes:
        """No network sees an image."""
        return Passes()

    def result(self, task: Task, state: State) -> SyntheticSet:
        """Real images: their provenance says so."""
        provenance = {"method": self.config.name, "init": "real"}
        labels = task.labels().cpu()
        return SyntheticSet(
            state.pixels.cpu(), labels, task.classes, task.normalise.mean, task.normalise.std, provenance
        )
