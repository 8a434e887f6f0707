"""What a condensation method is given, and what it must offer: four functions over explicit state (`Distiller`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int64
from torch import Tensor

from fedsim.config import Section
from fedsim.data.images import Images
from fedsim.data.synthetic import SyntheticSet
from fedsim.data.transforms import Normalise
from fedsim.distill.cost import Passes
from fedsim.distill.real import SLICE, Real
from fedsim.models.execution import Runner
from fedsim.models.functional import state
from fedsim.models.network import Network
from fedsim.seeding import Streams
from fedsim.types import Params

PIECE = 1024
"""Most rows of several owners that pass together where no chunk is set: bounds the one-hot matrix of class sums."""


@dataclass(frozen=True)
class Piece:
    """Rows of whole owners: their part of a loss that is a sum over owners and classes stands by itself."""

    rows: slice
    """Synthetic images, consecutive."""
    segments: slice
    """Their (owner, class) segments, consecutive."""
    labels: Int64[Tensor, "m"]
    """Segment of each row, counted from the piece's first; modulo k it is the class."""
    budget: Int64[Tensor, "s"]
    """Rows of each segment."""


@dataclass(frozen=True)
class Task:
    """One condensation: whose images, into how many, seen through which networks.

    Several owners that see the same networks are one task: class c of owner g is segment g·k + c (`cohort.py`).
    """

    real: Real
    """The owner's images: class sums and counts, and random subsets of the records themselves."""
    budget: Int64[Tensor, "s"]
    """Synthetic images of each class (of each segment, s = owners · k); 0 where the owner has none."""
    runner: Runner
    """A network of the architecture that weights are copied into, and how it is run; its own weights are never used."""
    normalise: Normalise
    """Bytes to network input."""
    classes: tuple[str, ...]
    """Class names."""
    start: Params | None = None
    """w_r, the weights that networks are drawn around; None outside a federation."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where images and networks live."""
    shared: Streams | None = None
    """Streams that all owners of a round draw networks and augmentations from; None: each has its own."""
    given: SyntheticSet | None = None
    """Another owner's set that a descent on pixels starts from, where it has images of the class; None: by `init`."""
    previous: Images | None = None
    """Images of the round before, which are public; None: there are none yet, or nobody asked for them."""

    @property
    def owners(self) -> int:
        """How many are condensed together."""
        return len(self.budget) // self.num_classes

    @cached_property
    def pieces(self) -> list[Piece]:
        """The synthetic images in pieces of whole owners, each at most so many rows if an owner has no more."""
        most = SLICE * self.runner.rows(0) or PIECE
        per_owner = self.budget.cpu().view(self.owners, -1).sum(1).tolist()
        groups: list[list[int]] = [[]]
        for owner, rows in enumerate(per_owner):
            if groups[-1] and sum(per_owner[one] for one in groups[-1]) + rows > most:
                groups.append([])
            groups[-1].append(owner)
        return [self._piece(group[0], group[-1] + 1, per_owner) for group in groups]

    def _piece(self, first: int, end: int, per_owner: list[int]) -> Piece:
        segments = slice(first * self.num_classes, end * self.num_classes)
        rows = slice(sum(per_owner[:first]), sum(per_owner[:end]))
        budget = self.budget[segments]
        labels = torch.repeat_interleave(torch.arange(len(budget)), budget.cpu())
        return Piece(rows, segments, labels.to(self.device), budget.to(self.device))

    @property
    def network(self) -> Network:
        """Template of the architecture."""
        return self.runner.network

    @property
    def num_classes(self) -> int:
        """k."""
        return len(self.classes)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(c, h, w)."""
        return self.real.image_shape

    @property
    def present(self) -> Tensor:
        """Classes (segments) with a budget, ascending."""
        return torch.nonzero(self.budget).flatten()

    def labels(self) -> Int64[Tensor, "m"]:
        """Labels of the synthetic images: each class (segment) `budget` times, ascending."""
        return torch.repeat_interleave(torch.arange(len(self.budget)), self.budget.cpu()).to(self.device)

    def fresh(self, rng: torch.Generator) -> Params:
        """Newly initialised weights of the architecture."""
        self.network.reset(rng)
        return state(self.network)


@runtime_checkable
class Distiller(Protocol):
    """A condensation method. `Artifacts` and `State` are the method's own dataclasses of tensors."""

    @property
    def Config(self) -> type[Section]:  # noqa: N802 - the class attribute that the catalog reads
        """Its settings' class."""
        ...

    def prepare(self, task: Task, rng: torch.Generator) -> Any:
        """What is made once before the loop: pools of networks, experts, teachers."""
        ...

    def init(self, task: Task, artifacts: Any, rng: torch.Generator) -> Any:
        """The first state."""
        ...

    def step(self, task: Task, artifacts: Any, state: Any, rng: torch.Generator) -> dict[str, Tensor]:
        """One iteration, in place; returns 0-d tensors on the device, fetched only every `log_every` steps.

        With several owners a tensor has one entry for each.
        """
        ...

    def result(self, task: Task, state: Any) -> SyntheticSet:
        """The set that the state stands for, in bytes."""
        ...

    def passes(self, counts: Int64[Tensor, "k"]) -> Passes:
        """What condensing an owner with that many images per class costs."""
        ...
