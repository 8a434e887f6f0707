"""Distribution Matching: make the class means of synthetic images, seen through random networks, those of real images.

    min_S  E_{ψ, A}  Σ_c ‖ 1/|B_c^T| Σ_{x ∈ B_c^T} ψ(A(x))  −  1/|B_c^S| Σ_{s ∈ B_c^S} ψ(A(s)) ‖²

    S, T    synthetic and real images            ψ   embedding of a randomly drawn network
    B_c     a batch of class c                   A   siamese augmentation, one draw per class for both batches

Source  Zhao and Bilen, "Dataset Condensation with Distribution Matching", WACV 2023, arXiv 2110.04181, Equation 4 and
        Algorithm 1. With `match: [embedding, logits]` the class term of FedDM (CVPR 2023), Equation 8.
Code    VICO-UoE/DatasetCondensation `main_DM.py` (MIT), read for defaults: image step size 1, momentum 0.5, batch 256.
Differs pixels are projected into the valid box after every step (the release leaves it, and loses what it left when
        bytes are made); starts from noise unless told otherwise; a class with fewer real images than the batch gives
        all of them; every synthetic image takes part in every step; all classes pass through the network together.
Reduces ψ = identity and no augmentation: S converges to the class means. `pool` with size → ∞ is `fresh`.
Cost    one forward of the real batches and one forward and backward of S per step; with a pool only the latter.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor

from fedsim.catalog import resolve
from fedsim.config import Choice, Section
from fedsim.data.augment import Config as DSAConfig
from fedsim.data.augment import augment
from fedsim.data.synthetic import SyntheticSet
from fedsim.distill.base import Task
from fedsim.distill.cost import Passes
from fedsim.distill.descent import Images, descend
from fedsim.distill.matching import class_means, class_sums, owner_losses
from fedsim.distill.networks import FreshConfig, NetworkSource
from fedsim.distill.pool import PoolConfig
from fedsim.types import Params


class Config(Section):
    """Settings of Distribution Matching; defaults are the paper's, but for the start from noise."""

    name: Literal["dm"] = "dm"
    ipc: int = Field(default=10, ge=1)
    """Synthetic images per class; never more than there are real ones."""
    iterations: int = Field(default=20000, ge=1)
    """Steps on the synthetic images."""
    init: Literal["noise", "real"] = "noise"
    """`noise`: normal noise in normalised units, projected; `real`: random real images (private pixels)."""
    optimiser: Literal["sgd", "adam"] = "sgd"
    """Descent on the images; `adam` takes steps that do not depend on the scale of the loss."""
    lr: float = Field(default=1.0, gt=0)
    """Step size, in normalised units."""
    momentum: float = Field(default=0.5, ge=0, lt=1)
    """Momentum of SGD."""
    batch_real: int = Field(default=256, ge=0)
    """Real images per class and step (per pool member under `networks: pool`); 0: all."""
    match: tuple[Literal["embedding", "logits"], ...] = Field(default=("embedding",), strict=False, min_length=1)
    """What is matched: the embedding (DM), or embedding and logits (FedDM)."""
    augment: DSAConfig | None = None
    """Siamese augmentation; null: none."""
    networks: Choice("networks") = FreshConfig()  # pyright: ignore[reportInvalidTypeForm]
    """Where ψ comes from: fresh, perturb, pool."""


def matching_loss(
    real_means: Float[Tensor, "k d"], synthetic_means: Float[Tensor, "k d"], present: Int64[Tensor, "q"]
) -> Float[Tensor, ""]:
    """Σ over the classes present of the squared distance between real and synthetic mean feature."""
    return (real_means[present] - synthetic_means[present]).square().sum()


class DistributionMatching:
    """The distiller of Distribution Matching."""

    Config = Config

    def __init__(self, config: Config) -> None:
        self.config = config
        self.source: NetworkSource = resolve("networks", config.networks.name)(config.networks, config.augment)

    def prepare(self, task: Task, rng: torch.Generator) -> object:
        """The network source's pool, if it keeps one."""

        def real_sums(params: Params, draws: Tensor | None, rng: torch.Generator) -> tuple[Tensor, Tensor]:
            return self._real_sums(task, params, draws, rng)

        return self.source.prepare(task, real_sums, rng)

    def init(self, task: Task, artifacts: object, rng: torch.Generator) -> Images:
        """Noise in the box, or random real images."""
        labels = task.labels()
        if self.config.init == "real":
            pixels, _ = task.real.subset(task.budget.cpu(), rng)
            images = task.normalise(pixels)
        else:
            shape = (len(labels), *task.image_shape)
            images = task.normalise.project(torch.randn(shape, generator=rng).to(task.device))
        return Images.start(images)

    def step(self, task: Task, artifacts: object, state: Images, rng: torch.Generator) -> dict[str, Tensor]:
        """One projected step on the images."""
        drawn = self.source.draw(task, artifacts, rng, int(state.steps))
        sums, counts = drawn.real_sums or self._real_sums(task, drawn.params, drawn.augmentation, rng)
        real, gradients, losses = class_means(sums, counts), [], []
        task.runner.load(drawn.params)
        for piece in task.pieces:
            images = state.pixels[piece.rows].detach().requires_grad_()
            features = self._features(task, drawn.augmentation, images, piece.labels)
            synthetic = class_means(class_sums(features, piece.labels, len(piece.budget)), piece.budget)
            loss = matching_loss(real[piece.segments], synthetic, piece.present)
            gradients += torch.autograd.grad(loss, images)
            each = (real[piece.segments], synthetic.detach(), piece.budget, task.num_classes)
            losses.append(owner_losses(*each) if task.owners > 1 else loss.detach() / len(piece.present))
        descend(
            state, torch.cat(gradients), task.normalise,
            optimiser=self.config.optimiser, lr=self.config.lr, momentum=self.config.momentum,
        )  # fmt: skip
        return {"loss": torch.cat(losses) if task.owners > 1 else losses[0]}

    def result(self, task: Task, state: Images) -> SyntheticSet:
        """The images in bytes."""
        images = task.normalise.quantise(state.pixels).cpu()
        provenance = {"method": self.config.name, "init": self.config.init}
        return SyntheticSet(
            images, task.labels().cpu(), task.classes, task.normalise.mean, task.normalise.std, provenance
        )

    def passes(self, counts: Int64[Tensor, "k"]) -> Passes:
        """The synthetic images every step; the real ones once per network that is drawn."""
        steps, networks = self.config.iterations, self.config.networks
        real = counts.clamp(max=self.config.batch_real) if self.config.batch_real else counts
        drawn = steps if not isinstance(networks, PoolConfig) else networks.drawn(steps)
        return Passes(drawn * int(real.sum()), steps * int(counts.clamp(max=self.config.ipc).sum()))

    def _real_sums(
        self, task: Task, params: Params, draws: Tensor | None, rng: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        def features(images: Tensor, labels: Tensor) -> Tensor:
            return self._features(task, draws, images, labels)

        task.runner.load(params)
        return task.real.class_sums(features, self.config.batch_real, rng, rows=task.runner.rows(0))

    def _features(self, task: Task, draws: Tensor | None, images: Tensor, labels: Tensor) -> Float[Tensor, "n d"]:
        """What is matched, side by side, so that one squared distance is the sum of the terms."""
        if self.config.augment is not None and draws is not None:
            images = augment(images, labels % task.num_classes, draws, self.config.augment)
        seen = {"embedding": task.runner.embed(images)}
        if "logits" in self.config.match:
            seen["logits"] = task.runner.head(seen["embedding"])
        return torch.cat([seen[name] for name in self.config.match], dim=1)
