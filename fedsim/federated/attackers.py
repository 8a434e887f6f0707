"""Compromised clients: who acts when, and what an attacker may do.

An attacker replaces one client's half of a round. It holds what that client holds (its images, what the server sent)
and knows nothing of the others, of `val` or of the test split. Where it makes a trigger it leaves it in the client's
own folder (`trigger.safetensors`), which nothing sends: the simulator, which sees everything, measures with it later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int64
from pydantic import Field, model_validator
from torch import Tensor

from fedsim.config import Section
from fedsim.data.trigger import Trigger
from fedsim.federated.base import Algorithm, Broadcast, ClientView, Upload
from fedsim.seeding import Streams
from fedsim.types import UserError

TRIGGER = "trigger.safetensors"


class AttackerConfig(Section):
    """What every attacker is told."""

    name: Any
    """Name of the attack; each one narrows it to its own."""
    clients: tuple[int, ...] = Field(min_length=1, strict=False)
    """Partition ids of the compromised clients."""
    active: int | None = Field(default=None, ge=1)
    """How many of them act in one round, drawn anew each round (a pool); null: all of them (fixed)."""
    rounds: tuple[int, int] | None = Field(default=None, strict=False)
    """First and last round in which they act; null: every round."""
    target: int = Field(default=0, ge=0)
    """Class that stamped images are to be taken for."""

    @model_validator(mode="after")
    def _possible(self) -> AttackerConfig:
        if len(set(self.clients)) < len(self.clients) or min(self.clients) < 0:
            raise ValueError(f"clients: got {list(self.clients)}; valid: partition ids from 0, each once")
        if self.active is not None and self.active > len(self.clients):
            raise ValueError(
                f"active: got {self.active} of {len(self.clients)} clients; valid: 1 to {len(self.clients)}"
            )
        if self.rounds is not None and not 1 <= self.rounds[0] <= self.rounds[1]:
            raise ValueError(f"rounds: got {list(self.rounds)}; valid: [first, last] with 1 ≤ first ≤ last")
        return self

    def acting(self, round_number: int, streams: Streams) -> frozenset[int]:
        """The clients that act in this round; `streams` are those of the run."""
        if self.rounds is not None and not self.rounds[0] <= round_number <= self.rounds[1]:
            return frozenset()
        if self.active is None:
            return frozenset(self.clients)
        rng = streams.generator("attackers", *self.clients, "round", round_number)
        drawn = torch.randperm(len(self.clients), generator=rng)[: self.active]
        return frozenset(self.clients[place] for place in drawn.tolist())


@dataclass(frozen=True)
class Scene:
    """What is known of a run before any work: enough to refuse an attacker that could not act in it."""

    image_shape: tuple[int, int, int]
    """(c, h, w)."""
    method: Section | None
    """How clients condense; None: they send weights."""
    labels: Mapping[int, Int64[Tensor, "n"]]
    """Labels of the images of each compromised client."""


@runtime_checkable
class Attacker(Protocol):
    """What a compromised client does in the place of its part of a round."""

    @property
    def Config(self) -> type[AttackerConfig]:  # noqa: N802 - the class attribute that the catalog reads
        """Its settings' class."""
        ...

    def check(self, scene: Scene) -> None:
        """Raise `UserError` where it could not act."""
        ...

    def client(self, algorithm: Algorithm, view: ClientView, broadcast: Broadcast, streams: Streams) -> Upload:
        """The upload in the place of `algorithm.client(view, broadcast, streams)`."""
        ...


def leave(view: ClientView, trigger: Trigger) -> None:
    """Put the trigger of this round into the client's own folder."""
    if view.store is not None:
        trigger.save(view.store / TRIGGER)


def check_attackers(attackers: Sequence[AttackerConfig], clients: int, rounds: int, num_classes: int) -> None:
    """Refuse attackers that cannot act, and two for one client."""
    taken: set[int] = set()
    for attacker in attackers:
        if (last := max(attacker.clients)) >= clients:
            raise UserError(f"attackers: client {last} does not exist; valid: 0 to {clients - 1}")
        if both := taken & set(attacker.clients):
            raise UserError(f"attackers: client {min(both)} is in two of them; valid: each client in one")
        if attacker.rounds is not None and attacker.rounds[1] > rounds:
            raise UserError(f"attackers: round {attacker.rounds[1]} does not exist; valid: 1 to {rounds}")
        if attacker.target >= num_classes:
            raise UserError(f"attackers: target {attacker.target} is no class; valid: 0 to {num_classes - 1}")
        taken |= set(attacker.clients)
