"""One network of a private matching: what it sees in an image, and the noisy class sums that were released under it.

    a   mean of ψ over public images              P   directions of a subspace, or all (subspace.py)
    r   of a real or synthetic image: clip_C(Pᵀ (ψ(x) − a))

Network, augmentation, a and P are drawn without a look at private records; what is asked is known by all of them, so
that the same question finds its release (privacy/ledger.py).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

from fedsim.data.augment import Config as DSAConfig
from fedsim.data.augment import augment
from fedsim.distill.base import Task
from fedsim.distill.networks import Draw
from fedsim.distill.subspace import basis
from fedsim.models.functional import flatten, model_sha256, unflatten
from fedsim.privacy.features import Config
from fedsim.privacy.mechanism import clipped
from fedsim.privacy.owner import PrivateImages
from fedsim.types import Params, UserError

PUBLIC = 64
"""Noise images."""

Look = Callable[[Task, Params], Callable[[Float[Tensor, "n c h w"]], Float[Tensor, "n d"]]]
"""A network in the task's runner to what is matched of images (dm.py)."""

Vectors = Callable[[Float[Tensor, "n c h w"], Int64[Tensor, "n"]], Float[Tensor, "n d"]]


@dataclass(frozen=True)
class Seeing:
    """What is matched, whatever the network."""

    look: Look
    augment: DSAConfig | None
    match: tuple[str, ...]
    """Names of what is matched: they are part of the question."""

    def vectors(self, task: Task, params: Params, draws: Tensor | None) -> Vectors:
        """Load a network; images and their labels to vectors under it and its augmentation."""
        task.runner.load(params)
        look = self.look(task, params)

        def vectors(images: Tensor, labels: Tensor) -> Float[Tensor, "n d"]:
            if self.augment is not None and draws is not None:
                images = augment(images, labels, draws, self.augment)
            return look(images)

        return vectors


@dataclass
class NoisyNetwork:
    """A network and what was released under it."""

    flat: Float[Tensor, "p"]
    augmentation: Float[Tensor, "k q"] | None
    centre: Float[Tensor, "d"]
    """a."""
    basis: Float[Tensor, "d e"] | None
    """P; None: vectors are not projected."""
    target: Float[Tensor, "k e"]
    """Estimated means of clip_C(Pᵀ (ψ − a))."""
    counts: Float64[Tensor, "k"]
    """n̂."""

    def rows(self, task: Task, seeing: Seeing, images: Float[Tensor, "n c h w"], clip: float) -> Float[Tensor, "n e"]:
        """r of the task's synthetic images."""
        params = unflatten(self.flat, task.network.state_dict())
        rows = seeing.vectors(task, params, self.augmentation)(images, task.labels()) - self.centre
        return clipped(rows if self.basis is None else rows @ self.basis, clip)


def ask(task: Task, drawn: Draw, seeing: Seeing, privacy: Config, rng: torch.Generator) -> NoisyNetwork:
    """Have the noisy sums of a network that was drawn released, or find them where they were."""
    if not isinstance(task.real, PrivateImages):
        raise UserError("privacy: got a client's open images; valid: PrivateImages, which only noisy sums leave")
    vectors = seeing.vectors(task, drawn.params, drawn.augmentation)
    seen = public(task, vectors, rng)
    centre = seen[privacy.centre].mean(0)
    columns, about, project = None, centre, vectors
    if privacy.dimension is not None:
        rows = seen["previous"] - centre if privacy.subspace == "previous" else None
        columns = basis(privacy.dimension, len(centre), rng, rows).to(centre)
        about, project = torch.zeros(privacy.dimension), projected(vectors, centre, columns)
    question = asked({"centre": centre, "augmentation": drawn.augmentation, "basis": columns}, drawn, seeing.match)
    found = task.real.release(question, project, about, task.network, rows=task.runner.rows(0))
    target = found.targets(privacy.least).to(centre.dtype).to(task.device)
    return NoisyNetwork(flatten(drawn.params), drawn.augmentation, centre, columns, target, found.counts)


def public(task: Task, vectors: Vectors, rng: torch.Generator) -> dict[str, Float[Tensor, "n d"]]:
    """ψ of noise images and of those of the round before; in round 1 noise stands in for these."""
    noise = task.normalise.project(torch.randn((PUBLIC, *task.image_shape), generator=rng).to(task.device))
    labels = torch.arange(PUBLIC, device=task.device) % task.num_classes
    with torch.no_grad():
        found = {"noise": vectors(noise, labels)}
        images = task.previous
        sent = None if images is None else vectors(task.normalise(images.pixels), images.labels)
    return found | {"previous": found["noise"] if sent is None else sent}


def projected(vectors: Vectors, centre: Float[Tensor, "d"], columns: Float[Tensor, "d e"]) -> Vectors:
    """Pᵀ (ψ − a), in float64."""

    def project(images: Tensor, labels: Tensor) -> Float[Tensor, "n e"]:
        return (vectors(images, labels).double() - centre.double()) @ columns.double()

    return project


def asked(described: dict[str, Tensor | None], drawn: Draw, match: tuple[str, ...]) -> str:
    """The question: a name for everything that its answer depends on beside the records."""
    tensors = {name: value for name, value in described.items() if value is not None}
    facts = [model_sha256(drawn.params), model_sha256(tensors), *match]
    return f"features {hashlib.sha256(' '.join(facts).encode()).hexdigest()}"
