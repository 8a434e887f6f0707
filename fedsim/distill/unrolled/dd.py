"""Dataset distillation (2018): images, and the step sizes to use them with, from which one short training suffices.

    min_{x, η}  E_{θ_0}  1/n Σ_i ℓ(θ_T; r_i, y_i)        θ_{t+1} = θ_t − η_t ∇_θ 1/|P_s| Σ_{j ∈ P_s} ℓ(θ_t; x_j, y_j)

    x    synthetic images                          P_s  part s = t mod S of them, one image a class by default
    r_i  a batch of n real images                  η_t  > 0, one for each of the T = E S steps: softplus(ρ_t)
    θ_0  new weights every time, or the same ones  ℓ    cross-entropy

Both gradients are the exact ones of all T steps (adjoint.py): λ_T = 1/n Σ_i ∇ℓ(θ_T; r_i, y_i) is carried back through
the training. The step sizes are part of the set (data/rates.py); `evaluation.steps: learned` trains by them.

Source  Wang, Zhu, Torralba and Efros, "Dataset Distillation", arXiv 1811.10959, Algorithm 1, extended
        as there to several steps and epochs, each step with images and step size of its own.
Code    SsnL/dataset-distillation (MIT) was read for softplus, one step size per step and epoch, ten steps and three
        epochs of one image a class from 0.02, Adam at 0.01 for both, halved every tenth of 400 epochs (`milestones`).
Differs pixels are projected into the valid box and end as bytes; Adam has its published β, theirs is (0.5, 0.999); the
        real batch has as many of each class as there are, up to `batch_real`; initialisation is the model's own, not
        always Xavier's. Where classes are smaller than `ipc`, later parts hold fewer classes, and an empty part is no
        step. `fixed` keeps the θ_0 of the first step, or the server's; its set is scored here on new networks all the
        same, as the weights are no part of it. `networks` draws θ_0 around the server's weights (no paper's); in a
        federation the rates stay with the client, whose set the server trains on as on any other. A loss that is not
        finite ends the run. A batch norm is refused.
Reduces S = 1, step sizes fixed: meta_knowledge with equal weights, K = E and α = η. η → 0: nothing moves.
Cost    a step is, for each network, a first-order training of T batches, the real batch, and T times a forward and
        three backwards of P_s. Memory: T + 1 weight vectors and one step's graph, whatever T, in pieces of `chunk`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor

from fedsim.catalog import resolve
from fedsim.config import Choice, Section
from fedsim.data import rates as schedule
from fedsim.data.synthetic import SyntheticSet
from fedsim.distill.base import Task
from fedsim.distill.class_gradients import no_class_sums, real_batch
from fedsim.distill.cost import Passes, batch_size
from fedsim.distill.descent import Images, descend, direction, halved
from fedsim.distill.gradient.meta_knowledge import outer_gradient
from fedsim.distill.networks import NetworkSource
from fedsim.distill.pixels import finish, start
from fedsim.distill.unrolled.adjoint import Back, Step, backward, forward
from fedsim.models.functional import has_batch_norm
from fedsim.types import Params, UserError


class Config(Section):
    """Settings of dataset distillation; steps, epochs, rates and step sizes are the released code's."""

    learns_rates: ClassVar[bool] = True
    """Its sets hold step sizes (`evaluation.steps: learned`)."""
    name: Literal["dd"] = "dd"
    ipc: int = Field(default=10, ge=1)
    """Synthetic images per class; never more than there are real ones."""
    iterations: int = Field(default=400, ge=1)
    """Steps on the images and the rates."""
    steps: int | None = Field(default=None, ge=1)
    """S, parts that the images are divided into, a step of training each; null: `ipc`, one image a class in each."""
    epochs: int = Field(default=3, ge=1)
    """E, passes of the unrolled training through the parts; each has rates of its own."""
    rate: float = Field(default=0.02, gt=0, le=100)
    """Where every η_t starts."""
    lr_rates: float = Field(default=0.01, ge=0)
    """Step size on ρ; optimiser, momentum and milestones are those of the images. 0: rates stay."""
    init: Literal["noise", "real"] = "noise"
    """`noise`: normal noise in normalised units, projected; `real`: random real images (private pixels)."""
    optimiser: Literal["sgd", "adam"] = "adam"
    """Descent on images and rates."""
    lr: float = Field(default=0.01, gt=0)
    """Step size on the images, in normalised units."""
    momentum: float = Field(default=0.5, ge=0, lt=1)
    """Momentum of SGD on images and rates."""
    milestones: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = Field(default=(), strict=False)
    """Shares of the iterations after which `lr` and `lr_rates` halve."""
    batch_real: int = Field(default=100, ge=0)
    """Real images per class and step; 0: all."""
    nets: int = Field(default=1, ge=1)
    """Networks that a step averages over, on one real batch."""
    initialisation: Literal["random", "fixed"] = "random"
    """θ_0: drawn at every step, or once."""
    networks: Choice("networks") | None = None  # pyright: ignore[reportInvalidTypeForm]
    """Where θ_0 is drawn: fresh, perturb; null: the server's weights as they are, or new ones where there is none."""

    @field_validator("networks")
    @classmethod
    def _no_pool(cls, networks: Section | None) -> Section | None:
        if getattr(networks, "name", "") == "pool":
            raise ValueError("a pool holds class means of its networks, and these are trained; valid: fresh, perturb")
        return networks

    @field_validator("steps")
    @classmethod
    def _no_more_than_images(cls, steps: int | None, info: ValidationInfo) -> int | None:
        ipc = info.data.get("ipc")
        if steps is not None and ipc is not None and steps > ipc:
            raise ValueError(f"with ipc={ipc} some parts would have no image; valid: 1 to ipc, or null")
        return steps

    @property
    def parts(self) -> int:
        """S."""
        return self.ipc if self.steps is None else self.steps


def inverse_softplus(rates: Float[Tensor, "t"]) -> Float[Tensor, "t"]:
    """ρ = log(e^η − 1), the inverse of η = softplus(ρ)."""
    return rates + torch.log(-torch.expm1(-rates))


class Artifacts(NamedTuple):
    """What is there before the first step."""

    source: Any
    """What the source of networks keeps."""
    fixed: list[Params] | None
    """θ_0 of each network; None: drawn at every step."""


@dataclass
class State(Images):
    """Images and step sizes under optimisation."""

    raw: Float[Tensor, "t"]
    """ρ, epoch by epoch; on the CPU, where every step reads them."""
    raw_first: Float[Tensor, "t"]
    """v of SGD, m of Adam."""
    raw_second: Float[Tensor, "t"]
    """q of Adam; zero under SGD."""


class DatasetDistillation:
    """The distiller of dataset distillation."""

    Config = Config

    def __init__(self, config: Config) -> None:
        self.config = config
        chosen = config.networks
        self.source: NetworkSource | None = resolve("networks", chosen.name)(chosen, None) if chosen else None

    def prepare(self, task: Task, rng: torch.Generator) -> Artifacts:
        """The fixed θ_0, if they are. Runners come frozen; here gradients of weights are asked for."""
        if has_batch_norm(task.network):
            raise UserError(
                "method dd differentiates steps of training, and a batch norm would carry statistics from one into the "
                "next; choose another model.norm"
            )
        if task.owners > 1:
            raise UserError(
                "method dd trains its network on the owner's own images, so owners cannot share it; "
                "give method.networks without shared"
            )
        task.network.requires_grad_(True)
        kept = self.source.prepare(task, no_class_sums, rng) if self.source is not None else None
        fixed = self.config.initialisation == "fixed"
        return Artifacts(kept, self._drawn(task, kept, rng, 0) if fixed else None)

    def init(self, task: Task, artifacts: Artifacts, rng: torch.Generator) -> State:
        """Noise in the box, or random real images; every rate the same."""
        first = torch.full((self.config.epochs * self.config.parts,), self.config.rate)
        images = Images.start(start(task, self.config.init, rng))
        return State(**vars(images), raw=inverse_softplus(first), raw_first=first * 0, raw_second=first * 0)

    def step(self, task: Task, artifacts: Artifacts, state: State, rng: torch.Generator) -> dict[str, Tensor]:
        """One step on images and rates against the loss at the end of the training, averaged over the networks."""
        starts = artifacts.fixed or self._drawn(task, artifacts.source, rng, int(state.steps))
        real = real_batch(task, self.config.batch_real, rng)
        number, steps = self._schedule(task, state)
        losses, backs = zip(*[self._through(task, one, state.pixels, steps, real) for one in starts], strict=True)
        loss = torch.stack(losses).mean()
        gradient = torch.stack([back.images for back in backs]).mean(0)
        by_rates = torch.zeros_like(state.raw)
        by_rates[number] = torch.stack([back.rates for back in backs]).mean(0).to(state.raw)
        self._check(loss, gradient, by_rates, state)
        self._descend(task, state, gradient, by_rates)
        return {"loss": loss, "rate": F.softplus(state.raw).mean()}

    def result(self, task: Task, state: State) -> SyntheticSet:
        """The images in bytes, and their rates."""
        made = finish(task, state.pixels, method=self.config.name, init=self.config.init)
        return replace(made, rates=F.softplus(state.raw).view(self.config.epochs, -1).clone())

    def passes(self, counts: Int64[Tensor, "k"]) -> Passes:
        """A first-order training and one that is differentiated once more, as three: E passes through S of each."""
        config = self.config
        real, made = batch_size(counts, config.batch_real), batch_size(counts, config.ipc)
        return Passes(training=config.nets * (real + 4 * config.epochs * made)).times(config.iterations)

    def _drawn(self, task: Task, kept: Any, rng: torch.Generator, step: int) -> list[Params]:
        """θ_0 of each network of a step."""
        if self.source is not None:
            return [self.source.draw(task, kept, rng, step).params for _ in range(self.config.nets)]
        return [task.fresh(rng) if task.start is None else task.start for _ in range(self.config.nets)]

    def _schedule(self, task: Task, state: State) -> tuple[list[int], list[Step]]:
        """Number and content of each step that has images."""
        parts = schedule.parts(task.labels(), self.config.parts)
        every = enumerate(F.softplus(state.raw).tolist())
        found = [(number, Step(parts[number % len(parts)], rate)) for number, rate in every]
        filled = [one for one in found if len(one[1].rows)]
        return [number for number, _ in filled], [step for _, step in filled]

    def _through(
        self, task: Task, first: Params, pixels: Tensor, steps: list[Step], real: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Back]:
        """The loss at the end of one network's training, and its derivatives."""
        labels, runner = task.labels(), task.runner
        path = forward(runner, first, pixels, labels, steps)
        equal = torch.ones(len(real[0]), dtype=path[0].dtype, device=task.device)
        loss, last = outer_gradient(runner, *real, equal)
        return loss, backward(runner, path, last, pixels, labels, steps)

    def _descend(self, task: Task, state: State, gradient: Tensor, by_rates: Tensor) -> None:
        """One step on images and rates, in place."""
        config, done = self.config, float(state.steps) / self.config.iterations
        how: dict[str, Any] = {"optimiser": config.optimiser, "momentum": config.momentum}
        descend(state, gradient, task.normalise, lr=halved(config.lr, config.milestones, done), **how)
        by_raw = by_rates * torch.sigmoid(state.raw)
        move = direction(state.raw_first, state.raw_second, by_raw, state.steps, **how)
        state.raw.sub_(move, alpha=halved(config.lr_rates, config.milestones, done))

    def _check(self, loss: Tensor, gradient: Tensor, by_rates: Tensor, state: State) -> None:
        """Refuse to go on from a training that diverged; pixels would become bytes without a word."""
        if not all(bool(torch.isfinite(value).all()) for value in (loss, gradient, by_rates)):
            raise UserError(
                f"method dd: the unrolled training diverged at iteration {int(state.steps) + 1}, with rates up to "
                f"{float(F.softplus(state.raw).max()):.3g}; give a smaller method.rate, lr_rates or epochs"
            )
