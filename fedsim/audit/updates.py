"""What FedAvg would have sent of few records: weights after the run's own local training, at the weights sent first.

The evaluator plays the client's part, with the run's algorithm and settings, so it knows the records; an attack gets
the weights before and what was sent.

    Δ_b = θ − ClientUpdate(θ; records of b)        b = 1 … n cases of s records each

Cases, truth and identification are those of gradients.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fedsim.audit.gradients import GradientCases
from fedsim.federated.base import ClientView
from fedsim.models.functional import trainable_names
from fedsim.schema import FederatedRun
from fedsim.seeding import Streams
from fedsim.training.train import TrainConfig
from fedsim.types import Params, UserError

ALGORITHMS = ("fedavg", "fedavgm", "fedadam", "fedyogi")
"""Whose clients train the weights they were sent, and nothing else."""
PLAIN = {"momentum": 0.0, "weight_decay": 0.0, "schedule": "constant", "augment": None, "cutmix": None}
"""Local training that an attack can unroll."""


@dataclass(frozen=True)
class UpdateRelease:
    """What a server of FedAvg sees, and knows of how it came to be."""

    params: Params
    """θ."""
    updates: Mapping[str, Tensor]
    """Δ by name of the weight, cases first."""
    records: int
    """s."""
    epochs: int
    batch: int
    """Records of a local step."""
    rate: float
    """η."""


def release(cases: GradientCases) -> UpdateRelease:
    """The updates, one case after another."""
    parts = cases.parts
    local, setting, algorithm = checked(parts.config), parts.setting, parts.algorithm()
    broadcast = algorithm.broadcast(algorithm.init(setting), [cases.client])[cases.client]
    names, found = trainable_names(setting.first_network()), []
    for number, batch in enumerate(cases.positions()):
        view = ClientView(cases.client, setting, parts.images(batch))
        upload = algorithm.client(view, broadcast, Streams(cases.seed, ("updates", number)))
        assert upload.weights is not None, "these algorithms upload weights"
        found.append({name: broadcast.weights[name] - upload.weights[name] for name in names})
    stacked = {name: torch.stack([one[name] for one in found]) for name in names}
    return UpdateRelease(
        dict(broadcast.weights), stacked, cases.records, local.epochs, min(local.batch_size, cases.records), local.lr
    )


def checked(config: Any) -> TrainConfig:
    """The local training of a run whose updates can be unrolled; another one is a `UserError`."""
    assert isinstance(config, FederatedRun)
    settings: Any = config.algorithm
    if settings.name not in ALGORITHMS or config.privacy is not None:
        got = settings.name if config.privacy is None else f"{settings.name} under privacy"
        raise UserError(f"updates: got run.algorithm {got}; valid for an attack on updates: {', '.join(ALGORITHMS)}, "
                        "without privacy")  # fmt: skip
    local: TrainConfig = settings.local
    for name, plain in PLAIN.items():
        if (value := getattr(local, name)) != plain:
            raise UserError(
                f"updates: got run.algorithm.local.{name}={value}; an attack on updates unrolls plain steps; "
                f"valid: {plain}"
            )
    return local
