"""Meta knowledge condensation: make images on which one step of training serves the real data, the hard ones most.

    min_S  E_w  1/n Σ_i φ_i ℓ(w′; x_i, y_i)         w′ = w − α ∇_w 1/m Σ_j ℓ(w; s_j, y_j)        (K such steps)

    φ_i = 1 / (1 + exp(−τ ℓ(w; x_i, y_i)))

    S, s_j  synthetic images, m of them              x_i     a batch of n real images, of every class that is there
    w       the server's weights, or others          φ_i     dynamic weight of a record: ½ where the network is sure of
    w′      after K steps on S (`inner_steps`)               it, 1 where it is far off; a constant of the gradient
    α, τ    `inner_lr`, `tau`                        ℓ       cross-entropy

The gradient reaches S through w′ alone. With g = 1/n Σ_i φ_i ∇ℓ(w′; x_i, y_i) it is ∂⟨w′(S), g⟩/∂S: the real side is a
sum over records of first order, taken in pieces, and only the K steps on S are differentiated twice.

Source  Liu, Yu and Zhou, "Meta Knowledge Condensation for Federated Learning", ICLR 2023, arXiv 2209.14851, Algorithm 1
        lines 5 to 9. Its Equations 3 (S) and 6 (φ) are known here by number and by what they are said to do only.
Code    m13891290332/fedDM (a re-implementation) was read for τ = 5, ten inner and ten outer steps of Adam and 100
        images per class; its outer loss does not reach the images through w′, so that it is no reference.
Differs the forms above are chosen: plain SGD inside, as its step is differentiated; φ of each record by itself, from
        the loss before the inner steps, never normalised over a batch, so that one record's weight says nothing of
        another; w starts over every `restart` steps and goes on as w ← w′ between; pixels are projected into the valid
        box; smaller classes take part with what they have. `networks` draws w around the server's weights (no paper's).
        A batch norm is refused.
Reduces τ = 0 under SGD: equal weights at half the step. α → 0: S climbs ⟨∇ℓ(w; S), g⟩, gradient matching by inner
        product. K = 0: S stays where it starts.
Cost    a step is two forwards and a backward of the real batch and K times a forward and three backwards of S; memory
        is that of K passes of S.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from pydantic import Field, field_validator
from torch import Tensor

from fedsim.catalog import resolve
from fedsim.config import Choice, Section
from fedsim.data.synthetic import SyntheticSet
from fedsim.distill.base import Task
from fedsim.distill.class_gradients import Gradients, no_class_sums, real_batch
from fedsim.distill.cost import Passes, batch_size
from fedsim.distill.descent import Images, descend
from fedsim.distill.inner_training import put
from fedsim.distill.networks import NetworkSource
from fedsim.distill.pixels import finish, start
from fedsim.models.execution import Runner, wide
from fedsim.models.functional import call, flatten, has_batch_norm
from fedsim.types import Params, UserError


class Config(Section):
    """Settings of meta knowledge condensation; τ and K are the re-implementation's, the rest are this project's."""

    name: Literal["meta_knowledge"] = "meta_knowledge"
    ipc: int = Field(default=10, ge=1)
    """Synthetic images per class; never more than there are real ones."""
    iterations: int = Field(default=200, ge=1)
    """Steps on the synthetic images."""
    init: Literal["noise", "real"] = "noise"
    """`noise`: normal noise in normalised units, projected; `real`: random real images (private pixels)."""
    optimiser: Literal["sgd", "adam"] = "adam"
    """Descent on the images."""
    lr: float = Field(default=0.1, gt=0)
    """Step size on the images, in normalised units."""
    momentum: float = Field(default=0.5, ge=0, lt=1)
    """Momentum of SGD on the images."""
    batch_real: int = Field(default=256, ge=0)
    """Real images per class and step; 0: all."""
    inner_steps: int = Field(default=10, ge=0)
    """K, steps of the network on S that the gradient passes through."""
    inner_lr: float = Field(default=0.1, gt=0)
    """α."""
    restart: int = Field(default=1, ge=1)
    """Steps on the images before w is drawn anew; between them w ← w′."""
    weights: Literal["dynamic", "equal"] = "dynamic"
    """`equal`: φ = 1."""
    tau: float = Field(default=5.0, ge=0)
    """τ of dynamic weights."""
    networks: Choice("networks") | None = None  # pyright: ignore[reportInvalidTypeForm]
    """Where w comes from: fresh, perturb; null: the server's weights as they are, or new ones where there is none."""

    @field_validator("networks")
    @classmethod
    def _no_pool(cls, networks: Section | None) -> Section | None:
        if getattr(networks, "name", "") == "pool":
            raise ValueError("a pool holds class means of its networks, and these are trained; valid: fresh, perturb")
        return networks


def dynamic_weights(losses: Float[Tensor, "n"], tau: float) -> Float[Tensor, "n"]:
    """φ_i = 1 / (1 + exp(−τ ℓ_i)), each from its own loss."""
    return torch.sigmoid(tau * losses)


def inner_steps(
    runner: Runner, weights: Params, images: Float[Tensor, "m c h w"], labels: Int64[Tensor, "m"], lr: float, steps: int
) -> Params:
    """w′: `steps` of SGD on the mean cross-entropy from `weights`, differentiable in `images`; as written."""
    trained = [name for name, _ in runner.network.named_parameters()]
    after = {name: value.detach() for name, value in weights.items()}
    after |= {name: after[name].clone().requires_grad_() for name in trained}
    for _ in range(steps):
        with runner.autocast(images.device.type):
            logits = wide(call(runner.network, after, "forward", images))
        gradients = torch.autograd.grad(
            F.cross_entropy(logits, labels), [after[name] for name in trained], create_graph=True
        )
        after |= {name: after[name] - lr * one for name, one in zip(trained, gradients, strict=True)}
    return after


def outer_loss(losses: Float[Tensor, "n"], weights: Float[Tensor, "n"]) -> Float[Tensor, ""]:
    """Σ_i φ_i ℓ_i; divided by the n of the whole batch where pieces are added up."""
    return (weights * losses).sum()


def outer_gradient(
    runner: Runner, images: Float[Tensor, "n c h w"], labels: Int64[Tensor, "n"], weights: Float[Tensor, "n"]
) -> tuple[Float[Tensor, ""], Gradients]:
    """1/n Σ_i φ_i ℓ(w′; x_i) and g, its gradient by the runner's weights w′: constants. Pieces add up."""
    own, size = dict(runner.network.named_parameters()), runner.rows(len(images))
    total, gradients = torch.zeros((), dtype=weights.dtype, device=images.device), {}
    for inputs, targets, phi in zip(images.split(size), labels.split(size), weights.split(size), strict=True):
        loss = outer_loss(F.cross_entropy(runner.logits(inputs), targets, reduction="none"), phi) / len(images)
        parts = torch.autograd.grad(loss, list(own.values()))
        gradients = {name: gradients[name] + part if gradients else part for name, part in zip(own, parts, strict=True)}
        total = total + loss.detach()
    return total, gradients


def pull_back(after: Params, gradients: Gradients, images: Float[Tensor, "m c h w"]) -> Float[Tensor, "m c h w"]:
    """∂⟨w′, g⟩/∂S."""
    ours, theirs = [after[name] for name in gradients], list(gradients.values())
    (found,) = torch.autograd.grad(ours, images, theirs, allow_unused=True)
    return torch.zeros_like(images) if found is None else found


@dataclass
class State(Images):
    """The images under optimisation, and the network that goes on being trained on them."""

    weights: Float[Tensor, "p"]
    """w."""


RealSide = Callable[[Task, State, Params, torch.Generator], tuple[dict[str, Tensor], Gradients]]
"""What is told of a step, and g at w′, φ being of w; a private owner has another (private_gradients.py)."""


class MetaKnowledge:
    """The distiller of meta knowledge condensation."""

    Config = Config

    def __init__(self, config: Config) -> None:
        self.config = config
        chosen = config.networks
        self.source: NetworkSource | None = resolve("networks", chosen.name)(chosen, None) if chosen else None
        self.outer: RealSide = self._of_batch

    def prepare(self, task: Task, rng: torch.Generator) -> Any:
        """What the source of networks keeps. Runners come frozen; here gradients of weights are asked for."""
        if has_batch_norm(task.network):
            raise UserError(
                "method meta_knowledge differentiates steps of training, and a batch norm would carry statistics from "
                "one into the next; choose another model.norm"
            )
        if task.owners > 1:
            raise UserError(
                "method meta_knowledge trains its network on the owner's own images, so owners cannot share it; "
                "give method.networks without shared"
            )
        task.network.requires_grad_(True)
        return self.source.prepare(task, no_class_sums, rng) if self.source is not None else None

    def init(self, task: Task, artifacts: Any, rng: torch.Generator) -> State:
        """Noise in the box, or random real images; where there is another's set, that (pixels.py)."""
        weights = torch.zeros_like(flatten(task.network.state_dict()).detach())  # a place for those of step 0
        return State(**vars(Images.start(start(task, self.config.init, rng))), weights=weights)

    def step(self, task: Task, artifacts: Any, state: State, rng: torch.Generator) -> dict[str, Tensor]:
        """φ at w, w′ by K steps on S, one step on S against the weighted loss at w′."""
        config, runner, step = self.config, task.runner, int(state.steps)
        if step % config.restart == 0:
            state.weights.copy_(flatten(self._network(task, artifacts, rng, step)))
        put(runner, state.weights)
        pixels = state.pixels.detach().requires_grad_()
        after = inner_steps(
            runner, runner.network.state_dict(), pixels, task.labels(), config.inner_lr, config.inner_steps
        )
        metrics, outer = self.outer(task, state, after, rng)
        gradient = pull_back(after, outer, pixels)
        descend(state, gradient, task.normalise, optimiser=config.optimiser, lr=config.lr, momentum=config.momentum)
        if (step + 1) % config.restart != 0:
            state.weights.copy_(flatten(after).detach())
        return metrics

    def result(self, task: Task, state: State) -> SyntheticSet:
        """The images in bytes."""
        return finish(task, state.pixels, method=self.config.name, init=self.config.init)

    def passes(self, counts: Int64[Tensor, "k"]) -> Passes:
        """Three trainings of S stand for a step that is differentiated once more."""
        config = self.config
        real, made = batch_size(counts, config.batch_real), batch_size(counts, config.ipc)
        looks = real if config.weights == "dynamic" else 0
        each = Passes(forward=looks, training=real + 3 * config.inner_steps * made)
        return each.times(config.iterations)

    def _of_batch(
        self, task: Task, state: State, after: Params, rng: torch.Generator
    ) -> tuple[dict[str, Tensor], Gradients]:
        """The weighted loss of random real images and g; the runner holds w, and w′ from then on."""
        images, labels = real_batch(task, self.config.batch_real, rng)
        phi = record_weights(task.runner, images, labels, self.config)
        task.runner.load({name: value.detach() for name, value in after.items()})
        loss, outer = outer_gradient(task.runner, images, labels, phi)
        return {"loss": loss}, outer

    def _network(self, task: Task, artifacts: Any, rng: torch.Generator, step: int) -> Params:
        """w of step number `step`, from 0."""
        if self.source is not None:
            return self.source.draw(task, artifacts, rng, step).params
        return task.start if task.start is not None else task.fresh(rng)


@torch.no_grad()
def record_weights(
    runner: Runner, images: Float[Tensor, "n c h w"], labels: Int64[Tensor, "n"], config: Config
) -> Float[Tensor, "n"]:
    """φ of each record at the runner's weights w; ones if the weights are equal."""
    if config.weights == "equal":
        return torch.ones(len(images), dtype=runner.network.head.weight.dtype, device=images.device)
    return dynamic_weights(F.cross_entropy(runner.logits(images), labels, reduction="none"), config.tau)
