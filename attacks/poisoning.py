"""Poisoned records: which of a client's images are stamped and relabelled, and what all backdoors are told."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from fedsim.data.images import Images
from fedsim.data.trigger import Trigger, corner
from fedsim.distill.base import Distiller
from fedsim.federated.attackers import TRIGGER, AttackerConfig, Scene
from fedsim.federated.base import Algorithm, Broadcast, ClientView, Setting
from fedsim.models.network import Network
from fedsim.seeding import Streams
from fedsim.types import UserError


class SquareConfig(AttackerConfig):
    """Where the trigger lies."""

    size: int = Field(default=4, ge=1)
    """Pixels a side of the square that the trigger covers."""
    offset: int = Field(default=1, ge=0)
    """Pixels between it and the bottom right corner."""


class PoisoningConfig(SquareConfig):
    """How many records carry the trigger, and whether the attacker knows a filter."""

    fraction: float = Field(default=0.5, gt=0, le=1)
    """ρ: share of the client's records that are stamped and relabelled; at most all that are not of the target."""
    poison: bool = True
    """Whether records are stamped at all. false: the trigger is made and the client is honest, which shows what such a
    trigger does to a model that was never poisoned."""
    adaptive_to: str | None = None
    """A defence, at its defaults, whose score the attacker's images descend while they are condensed (evasion.py);
    null: none."""
    penalty: float = Field(default=0.2, ge=0)
    """p: largest move of a pixel in the step against that score after each of the method's, in network-input units."""
    stand_ins: int = Field(default=3, ge=2)
    """Honest sets that stand for the other clients'."""


def check_square(config: SquareConfig, scene: Scene) -> None:
    """Refuse a square that does not fit, and a client whose images are all of the target class."""
    corner(scene.image_shape, config.size, config.offset)
    for client, labels in scene.labels.items():
        if bool((labels == config.target).all()):
            raise UserError(
                f"attackers: every image of client {client} is of class {config.target}; choose another target or "
                "client"
            )


def stamped_rows(images: Images, config: PoisoningConfig, rng: torch.Generator) -> Tensor:
    """The rows that this attacker stamps; none where it only makes a trigger."""
    rows = poisoned_rows(images, config.target, config.fraction, rng)
    return rows if config.poison else rows[:0]


def poisoned_rows(images: Images, target: int, fraction: float, rng: torch.Generator) -> Tensor:
    """⌈ρ n⌉ random rows of the n images, none of the target class, at most all of those; ascending.

    Raises `UserError` where every image is of the target class.
    """
    others = torch.nonzero(images.labels != target).flatten()
    if not len(others):
        raise UserError(f"attackers: every image of the client is of class {target}; choose another target or client")
    wanted = min(len(others), max(1, -int(-fraction * len(images) // 1)))
    return others[torch.randperm(len(others), generator=rng)[:wanted]].sort().values


def clean_label_rows(images: Images, target: int, fraction: float, rng: torch.Generator) -> Tensor:
    """⌈ρ n⌉ random rows of the n images, all of the target class, at most all of those; ascending. Stamped, they keep
    their label: nothing that a reader of the records could call wrong.

    Raises `UserError` where no image is of the target class.
    """
    own = torch.nonzero(images.labels == target).flatten()
    if not len(own):
        raise UserError(f"attackers: no image is of class {target}, and clean labels stamp no others; choose another "
                        "target or client")  # fmt: skip
    wanted = min(len(own), max(1, -int(-fraction * len(images) // 1)))
    return own[torch.randperm(len(own), generator=rng)[:wanted]].sort().values


def carried(view: ClientView, round_number: int, first: Trigger) -> Trigger:
    """The trigger that this attacker had after its last round before this one; `first` before that."""
    if view.store is None:
        return first
    rounds = {
        int(path.parent.name.removeprefix("round_")): path for path in view.store.parent.glob(f"round_*/{TRIGGER}")
    }
    earlier = [number for number in rounds if number < round_number]
    return Trigger.load(rounds[max(earlier)]) if earlier else first


def condenser(algorithm: Algorithm) -> Distiller | None:
    """The condensation method that the algorithm's clients run; None where they send weights."""
    found = getattr(algorithm, "method", None)
    return found if isinstance(found, Distiller) else None


def known_network(setting: Setting, broadcast: Broadcast, streams: Streams) -> Network:
    """A network with the weights that the server sent; a newly initialised one where it sends none."""
    network = setting.fresh(streams.generator("network"))
    if broadcast.weights:
        network.load_state_dict({name: broadcast.weights[name] for name in network.state_dict()})
    return network.eval().requires_grad_(False)
