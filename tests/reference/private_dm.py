"""A private owner of the reference problem, and the loss of a step as a literal loop."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fedsim.distill.base import Task
from fedsim.distill.distribution.dm import Config
from fedsim.distill.pool import PoolConfig
from fedsim.privacy.features import Config as Privacy
from fedsim.privacy.ledger import Ledger
from fedsim.privacy.mechanism import Mechanism
from fedsim.privacy.noise import SeededNoise
from fedsim.privacy.owner import PrivateImages
from fedsim.seeding import Streams
from tests.reference import dm as loops

LEAST = 2.0


def config(size: int = 2, **settings: Any) -> Config:
    base = {"ipc": 2, "iterations": 3, "batch_real": 0, "match": ("embedding", "logits"), "lr": 0.1}
    return Config(**(base | {"networks": PoolConfig(size=size)} | settings))


def terms(**settings: Any) -> Privacy:
    """`privacy: features` of the reference problem."""
    return Privacy(**({"sigma": 1.0, "public_bound": 100, "noise": "seeded", "least": LEAST} | settings))


def task(
    folder: Path, counts: Sequence[int] = loops.RAGGED, *, mechanism: Mechanism | None = None, ipc: int = 2,
    around: bool = False, network: Any = None, chunk: int = 0,
) -> Task:  # fmt: skip
    """The reference problem, owned privately; every class gets `ipc` images."""
    open_task = loops.task(network or loops.convnet(classes=len(counts)), counts, around=around, chunk=chunk)
    seeded = Streams(0).at("noise")
    owner = PrivateImages(
        loops.images(counts), len(counts), loops.NORMALISE, torch.device("cpu"),
        mechanism or Mechanism(clip=2.0, kappa=1.0, sigma=0.5),
        lambda question: SeededNoise(seeded.generator(question)),
        Ledger(folder, 1e-5, "add_remove"),
    )  # fmt: skip
    return replace(open_task, real=owner, budget=torch.full((len(counts),), ipc))


def loss(
    images: Tensor, labels: Tensor, look: loops.Look, centre: Tensor, targets: Tensor, kept: list[bool], clip: float
) -> Tensor:
    """Σ_c ‖target_c − mean clip_C(ψ(s) − a)‖² over the classes kept, one image at a time."""
    total = torch.zeros((), dtype=torch.float64)
    for label, keep in enumerate(kept):
        if not keep:
            continue
        rows = []
        for image in images[labels == label]:
            row = torch.cat(look(image[None]), 1)[0] - centre
            norm = math.sqrt(sum(value**2 for value in row.tolist()))
            rows.append(row * (clip / row.norm() if norm > clip else 1.0))
        total = total + loops.squared_distance(targets[label], loops.mean(rows))
    return total
