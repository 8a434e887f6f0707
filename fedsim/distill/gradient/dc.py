"""Dataset Condensation: make synthetic images whose loss gradients, class by class, point where those of real ones do.

    min_S  E_{θ_0} Σ_{t < T} Σ_c D(g_c^S(θ_t), g_c^T(θ_t))        θ_{t+1} = ς_θ epochs of SGD on S from θ_t

    D(a, b) = Σ_l Σ_i ( 1 − ⟨a_{l,i}, b_{l,i}⟩ / (‖a_{l,i}‖ ‖b_{l,i}‖ + ε) )

    S, T    synthetic and real images                  l, i   layers, and the output units of each: a row of a
    g_c     gradient of the mean cross-entropy over           linear layer, a filter (in · h · w) of a convolution;
            a batch of class c                                biases and norm layers do not take part
    θ_t     weights; θ_0 a new network every T steps   ς_θ    `inner`        T, K   `outer`, networks drawn

Source  Zhao, Mopuri and Bilen, "Dataset Condensation with Gradient Matching", ICLR 2021, arXiv 2006.05929,
        Algorithm 1; the equations from memory.
Code    VICO-UoE/DatasetCondensation `main.py`, `utils.py` (MIT), read for ε = 1e-6, step sizes, batches and the table
        of (T, ς_θ) by images per class. Copies of it differ in the network's momentum; here it has none.
Differs any number of images per class (the release exits for those not in its table); one step for all classes, as in
        the release (the paper's listing goes class by class, under the same θ_t: the same step); pixels are projected
        into the valid box; smaller classes take part with what they have. A batch norm is refused: the paper and the
        release freeze its statistics from real batches first. `networks: perturb` draws θ_0 around w_r. No paper's:
        `labels: learned`, soft labels of S in g_c^S and ς_θ that descend the same loss (soft_labels.py).
Reduces synthetic images equal to the real ones: D = 0 and S stays. T = 1: no network is ever trained on S.
Cost    a step is one forward and backward of the real batches, a forward and two backwards of S, and ς_θ epochs on S.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int64
from pydantic import Field, field_validator
from torch import Tensor

from fedsim.catalog import resolve
from fedsim.config import Choice, Section
from fedsim.data.synthetic import SyntheticSet
from fedsim.distill.base import Task
from fedsim.distill.class_gradients import (
    Distance,
    Gradients,
    RealSide,
    by_class,
    distance_gradients,
    no_class_sums,
    real_gradients,
    require_independent_rows,
)
from fedsim.distill.cost import Passes, batch_size, preparation
from fedsim.distill.descent import Images, descend
from fedsim.distill.inner_training import put, sgd_step, take
from fedsim.distill.networks import FreshConfig, NetworkSource
from fedsim.distill.pixels import finish, start
from fedsim.distill.soft_labels import Labels, descend_labels, first_labels
from fedsim.models.functional import flatten
from fedsim.seeding import Streams

LOOPS = {1: (1, 1), 10: (10, 50), 20: (20, 25), 30: (30, 20), 40: (40, 15), 50: (50, 10)}
"""Images per class → (T, ς_θ) of the release."""
EPSILON = 1e-6
"""Keeps the cosine of a unit without gradient finite."""


class Config(Section):
    """Settings of Dataset Condensation; defaults are the release's."""

    name: Literal["dc"] = "dc"
    ipc: int = Field(default=10, ge=1)
    """Synthetic images per class; never more than there are real ones."""
    iterations: int = Field(default=10000, ge=1)
    """Matching steps, K·T; the release takes K = 1000 networks."""
    outer: int | None = Field(default=None, ge=1)
    """T, matching steps per network; null: the release's table, linear between its entries and constant beyond."""
    inner: int | None = Field(default=None, ge=0)
    """ς_θ, epochs on the synthetic images after a matching step; null: as `outer`."""
    init: Literal["noise", "real"] = "noise"
    """`noise`: normal noise in normalised units, projected; `real`: random real images (private pixels)."""
    optimiser: Literal["sgd", "adam"] = "sgd"
    """Descent on the images."""
    lr: float = Field(default=0.1, gt=0)
    """Step size on the images, in normalised units; the release takes 0.01 for an MLP."""
    momentum: float = Field(default=0.5, ge=0, lt=1)
    """Momentum of SGD on the images."""
    lr_net: float = Field(default=0.01, gt=0)
    """Step size of the network's SGD, which has no momentum."""
    batch_real: int = Field(default=256, ge=0)
    """Real images per class and step; 0: all."""
    batch_train: int = Field(default=256, ge=1)
    """Synthetic images per step of the network."""
    metric: Literal["cosine", "mse"] = "cosine"
    """D: `cosine` per output unit; `mse`: the squared distance over all weights, biases included."""
    class_batching: Literal["auto", "loop", "vmap"] = "auto"
    """Gradients of S: class after class, or all in one vectorised pass with smaller classes padded; auto: as measured
    (`class_gradients.faster`)."""
    networks: Choice("networks") = FreshConfig()  # pyright: ignore[reportInvalidTypeForm]
    """Where θ_0 comes from: fresh, perturb, early."""
    labels: Literal["hard", "learned"] = "hard"
    """`learned`: soft labels are descended beside the images, and are released with them."""
    lr_labels: float = Field(default=0.01, gt=0)
    """Step size on the logits of learned labels; optimiser and momentum are those of the images."""

    @field_validator("networks")
    @classmethod
    def _no_pool(cls, networks: Section) -> Section:
        if getattr(networks, "name", "") == "pool":
            raise ValueError("a pool holds class means of its networks, and these are trained; valid: fresh, perturb")
        return networks


def loops(ipc: int) -> tuple[int, int]:
    """(T, ς_θ) for so many images per class: the release's, linear between its entries, rounded, constant beyond."""
    outer, inner = (np.interp(ipc, list(LOOPS), [entry[place] for entry in LOOPS.values()]) for place in (0, 1))
    return int(outer + 0.5), int(inner + 0.5)


def cosine_distance(ours: Float[Tensor, "u d"], theirs: Float[Tensor, "u d"]) -> Float[Tensor, ""]:
    """Σ over output units of 1 − cosine."""
    norms = torch.linalg.vector_norm(ours, dim=1) * torch.linalg.vector_norm(theirs, dim=1)
    return (1 - (ours * theirs).sum(1) / (norms + EPSILON)).sum()


def layerwise_cosine(ours: Gradients, theirs: Gradients) -> Float[Tensor, ""]:
    """D: Σ over the weights that have output units; vectors (biases, norm layers) are left out."""
    matched = [name for name, gradient in theirs.items() if gradient.ndim > 1]
    return torch.stack([cosine_distance(ours[name].flatten(1), theirs[name].flatten(1)) for name in matched]).sum()


def squared_distance(ours: Gradients, theirs: Gradients) -> Float[Tensor, ""]:
    """‖ours − theirs‖² over all weights."""
    return torch.stack([(ours[name] - theirs[name]).square().sum() for name in theirs]).sum()


@dataclass
class State(Labels, Images):
    """The images and labels under optimisation, and the network that is trained on them."""

    weights: Float[Tensor, "p"]
    """θ_t."""


class GradientMatching:
    """The distiller of Dataset Condensation; a derivation may see the images in other ways (`views`, `see`, …)."""

    Config: type[Config] = Config

    def __init__(self, config: Config) -> None:
        self.config = config
        self.source: NetworkSource = resolve("networks", config.networks.name)(config.networks, None)
        outer, inner = loops(config.ipc)
        self.outer = config.outer if config.outer is not None else outer
        self.inner = config.inner if config.inner is not None else inner
        self.theirs: RealSide = self._of_batches

    def prepare(self, task: Task, rng: torch.Generator) -> Any:
        """What the source of networks keeps. Runners come frozen; here gradients of weights are asked for."""
        require_independent_rows(self.config.name, task)
        task.network.requires_grad_(True)
        return self.source.prepare(task, no_class_sums, rng)

    def init(self, task: Task, artifacts: Any, rng: torch.Generator) -> State:
        """Noise in the box, or random real images."""
        weights = torch.zeros_like(flatten(task.network.state_dict()).detach())  # a place for those of step 0
        images, labels = Images.start(self.first_images(task, rng)), first_labels(task, self.config)
        return State(**vars(images), **vars(labels), weights=weights)

    def first_images(self, task: Task, rng: torch.Generator) -> Float[Tensor, "m c h w"]:
        """Where the images start."""
        return start(task, self.config.init, rng)

    def step(self, task: Task, artifacts: Any, state: State, rng: torch.Generator) -> dict[str, Tensor]:
        """One matching step at θ_t, and the epochs that lead to θ_{t+1} unless the next step draws a new network."""
        step, apart = int(state.steps), Streams(int(torch.randint(2**62, (), generator=rng)))
        if step % self.outer == 0:
            self.renew(task, artifacts, state, rng)
        put(task.runner, state.weights)
        gradients, losses = self._match(task, state, apart, rng)
        how: Any = {"optimiser": self.config.optimiser, "momentum": self.config.momentum}
        descend(state, gradients[0], task.normalise, lr=self.config.lr, **how)
        if len(gradients) > 1:
            descend_labels(state, gradients[1], state.steps, lr=self.config.lr_labels, **how)
        order, draws = apart.generator("order"), apart.generator("training")
        if (step + 1) % self.outer != 0:
            for _ in range(self.inner):
                images, labels = self.training_images(task, state, draws)
                for rows in torch.randperm(len(labels), generator=order).split(self.config.batch_train):
                    here = rows.to(labels.device)
                    self.train_step(task, state, images[here], labels[here], draws)
            take(task.runner, state.weights)
        return {"loss": losses.mean()}

    def result(self, task: Task, state: State) -> SyntheticSet:
        """The images in bytes, and their soft labels if they were learned."""
        return finish(task, state.pixels, state.soft(), method=self.config.name, init=self.config.init)

    def passes(self, counts: Int64[Tensor, "k"]) -> Passes:
        """Three trainings of S per step stand for its double backward; the last step of a network has no epochs."""
        steps, real = self.config.iterations, batch_size(counts, self.config.batch_real)
        made, followed = batch_size(counts, self.config.ipc), steps - steps // self.outer
        before = preparation(self.config.networks, counts)
        return before + Passes(training=steps * (real + 3 * made) + followed * self.inner * made)

    def renew(self, task: Task, artifacts: Any, state: Any, rng: torch.Generator) -> None:
        """θ_0 of another network."""
        state.weights.copy_(flatten(self.source.draw(task, artifacts, rng, int(state.steps)).params))

    def views(self, task: Task, rng: torch.Generator) -> Any:
        """What is drawn of the views of one step: nothing."""

    def see(self, images: Float[Tensor, "n c h w"], label: int, views: Any) -> Float[Tensor, "n c h w"]:
        """How images of a class are seen in matching: as they are."""
        return images

    def decode(self, images: Float[Tensor, "m c h w"], labels: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """The images that those of a class in S stand for, and their labels: themselves."""
        return images, labels

    @property
    def distance(self) -> Distance:
        """D."""
        return layerwise_cosine if self.config.metric == "cosine" else squared_distance

    def training_images(self, task: Task, state: State, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images and labels of one epoch of the network: S."""
        soft = state.soft()
        return state.pixels, task.labels() if soft is None else soft

    def train_step(self, task: Task, state: Any, images: Tensor, labels: Tensor, rng: torch.Generator) -> None:
        """One step of the network on a batch."""
        sgd_step(task.runner, images, labels, lr=self.config.lr_net)

    def _of_batches(self, task: Task, state: State, views: Any, rng: torch.Generator) -> Iterable[Gradients]:
        return real_gradients(task, self.config.batch_real, lambda images, c: self.see(images, c, views), rng)

    def _match(self, task: Task, state: State, apart: Streams, rng: torch.Generator) -> tuple[list[Tensor], Tensor]:
        """Gradients of Σ_c D by the images and, if they are learned, the label logits; D of each class present."""
        present, sizes = task.present.tolist(), task.budget.tolist()
        views, parts = self.views(task, apart.generator("views")), apart.generator("parts")
        leaves = [by_class(one.detach().requires_grad_(), sizes) for one in (state.pixels, state.logits) if len(one)]
        told = [one.softmax(1) for one in leaves[1]] if len(leaves) > 1 else by_class(task.labels(), sizes)
        shown = [self.decode(images, labels, parts) for images, labels in zip(leaves[0], told, strict=True)]
        ours = [(self.see(images, one, views), labels) for (images, labels), one in zip(shown, present, strict=True)]
        theirs, way = self.theirs(task, state, views, rng), self.config.class_batching
        found = distance_gradients(task.runner, ours, theirs, self.distance, way)
        gradients, losses = [], []
        for place, (back, loss) in enumerate(found):
            losses.append(loss)
            gradients.append(torch.autograd.grad(ours[place][: len(leaves)], [kind[place] for kind in leaves], back))
        return [torch.cat(kind) for kind in zip(*gradients, strict=True)], torch.stack(losses)
