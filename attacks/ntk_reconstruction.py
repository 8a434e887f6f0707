"""Reconstruction from a weight change in the lazy regime: images whose gradients at the first weights add up to it.

    min_{x̂ ∈ [0,1], α}  ‖ Δθ − Σ_j Σ_c α_jc ∇_θ f_c(x̂_j; θ₀) ‖² / ‖Δθ‖²        Δθ = θ_T − θ₀

    θ₀, θ_T  weights before and after training      f_c  output c of the network      α_jc  dual of image j: how hard
    training pushed output c of it      x̂_j = sigmoid(z_j), m of them

Where training is linear in θ, as it is at infinite width, Δθ is exactly such a sum over the training records, whatever
loss and steps were taken. Neither learning rate nor labels nor epochs need be known: the sign of a dual tells a label.
What is found are the records of large duals: those that the others did not explain. Every ReLU is a softplus whose
sharpness grows with every step, since a ReLU's gradient has no curvature to follow; attempts are compared by the loss
of the network itself. Whether a run was lazy the attacker cannot know: the evaluator does (fedsim/audit/tangent.py).

Source  Loo, Hasani, Lechner, Amini, Rus, "Understanding Reconstruction Attacks with the Neural Tangent Kernel and
        Dataset Distillation", ICLR 2024 (arXiv 2302.01428): the loss at θ₀, duals of several outputs.
Code    yolky/understanding_reconstruction (facts only): Adam, 80,000 steps at 0.02, 2n images from 0.2·N(0, 1), duals
        from U(−½, ½), sharpness from 11 to 200, a penalty outside the box, optionally gradients at θ_T too.
Differs a sigmoid box in place of the penalty; duals in units of what m images need to reach ‖Δθ‖; the loss relative to
        ‖Δθ‖²; steps that are longer and fewer; as many images as records unless `candidates` asks for more. Gradients
        at θ_T beside those at θ₀ are left out: in one trial (width 1024, 1000 steps) they identified no more records.
Reduces with one record, one output and α known, to matching a gradient (dlg.py without labels).
Cost    iterations × the double backward pass of m images; memory of a few copies of θ for each problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64
from pydantic import Field
from torch import Tensor, nn

from attacks.alone import alone
from attacks.attempts import seeded
from attacks.gradient_findings import findings_of, first, scores_of
from attacks.gradient_matching import Observed, Reconstruction, squared
from attacks.smooth import softplus
from fedsim.audit.tangent import LAZY, combination
from fedsim.audit.types import Finding, Knowledge, Release, Scores, Status, ThreatModel, Truth
from fedsim.audit.updates import checked
from fedsim.audit.view import AdversaryView
from fedsim.config import Section
from fedsim.models.network import Network
from fedsim.seeding import Streams
from fedsim.types import Params, UserError

DARK, SPREAD = -1.0, 0.5
"""Mean and deviation of z at the start: pixels of 0.27, more or less."""
DUAL = 0.5
"""Change of a dual, in its unit, for a change of 1 of its variable: duals go half as fast as pixels."""
STEADY, LAST = 0.7, 0.02
"""Share of the steps at the full learning rate; what is left of it at the end, after a straight fall."""


class Config(Section):
    """Settings of the reconstruction from a weight change."""

    name: Literal["ntk_reconstruction"] = "ntk_reconstruction"
    iterations: int = Field(default=3000, ge=1)
    """Steps of one attempt; published: 80,000, shorter ones."""
    restarts: int = Field(default=1, ge=1)
    """Attempts per problem, the best by its loss."""
    learning_rate: float = Field(default=0.1, gt=0)
    """Of Adam, in units of z."""
    candidates: int = Field(default=1, ge=1)
    """Images searched for, for each record; those of the largest duals are kept. Published: 2, all kept."""
    sharpness: tuple[float, float] | None = Field(default=(10.0, 200.0), strict=False)
    """Of the softplus at the first and at the last step, growing geometrically; null: the network as it is."""
    width: int = Field(default=8, ge=1)
    """Attempts that run side by side."""


@dataclass(frozen=True)
class Tangent:
    """The loss of b problems. Variables of an attempt: z of its m images, then m k duals in their unit."""

    observed: Observed
    """`targets` are θ₀ − θ_T, as a FedAvg server would see them; a gradient is such a change after one step."""
    images: int
    """m."""

    @cached_property
    def power(self) -> Float[Tensor, "b"]:
        """‖Δθ‖²."""
        return torch.stack([value.square().flatten(1).sum(1) for value in self.observed.targets.values()]).sum(0)

    @cached_property
    def unit(self) -> Float[Tensor, "b"]:
        """‖Δθ‖ / √(m Σ_c ‖∇f_c‖²) at a grey image: the size of duals at which m unlike gradients reach ‖Δθ‖."""
        seen, like = self.observed, self.power
        grey = torch.full((1, *seen.image_shape), DARK).sigmoid().to(like)
        inputs, each = seen.normalise.inputs(grey), torch.eye(seen.num_classes).to(like)[:, None]
        found = []
        for problem in range(seen.problems if seen.stacked else 1):
            params = self._params(torch.tensor([problem], device=like.device), first=True)
            gradients = [combination(seen.network, params, inputs, dual) for dual in each]
            found.append(sum(value.square().sum() for one in gradients for value in one.values()))
        return (self.power / (self.images * torch.stack(found))).sqrt()

    def loss(self, network: Network, problem: Int64[Tensor, "a"], variables: Float[Tensor, "a v"]) -> Tensor:
        """‖Δθ − Σ α ∇f‖² / ‖Δθ‖² of a attempts, with `network` for the shape of f."""
        seen = self.observed
        images, duals = self.split(problem, variables)
        inputs = seen.normalise.inputs(images.flatten(0, 1)).view_as(images)
        where = 0 if seen.stacked else None

        def one(params: Params, images: Tensor, duals: Tensor) -> Params:
            return combination(network, params, images, duals)

        found = torch.func.vmap(one, in_dims=(where, 0, 0))(self._params(problem), inputs, duals)
        change = {name: -target[problem] for name, target in seen.targets.items()}
        return squared(found, change) / self.power[problem]

    def split(self, problem: Int64[Tensor, "a"], variables: Float[Tensor, "a v"]) -> tuple[Tensor, Tensor]:
        """Pixels (a, m, c, h, w) in 0..1 and duals (a, m, k)."""
        duals = self.images * self.observed.num_classes
        pixels, rest = variables[:, :-duals], variables[:, -duals:]
        scaled = DUAL * self.unit[problem, None, None] * rest.unflatten(1, (self.images, -1))
        return pixels.sigmoid().unflatten(1, (self.images, *self.observed.image_shape)), scaled

    def start(self, rng: torch.Generator) -> Float[Tensor, "v"]:
        """z from N(DARK, SPREAD²), duals evenly in ±1 of their unit."""
        channels, height, width = self.observed.image_shape
        pixels = torch.randn(self.images * channels * height * width, generator=rng) * SPREAD + DARK
        duals = (torch.rand(self.images * self.observed.num_classes, generator=rng) * 2 - 1) / DUAL
        return torch.cat([pixels, duals]).to(self.power)

    def _params(self, problem: Tensor, first: bool = False) -> Params:
        params = self.observed.params
        if not self.observed.stacked:
            return params
        return {name: value[problem[0] if first else problem] for name, value in params.items()}


class NTKReconstruction:
    """A server that saw the weights of a client, or anyone who saw a model, before and after training."""

    Config = Config
    threat = ThreatModel(
        name="curious_server", position="server", behaviour="passive", adjacency="replace",
        sees=frozenset({Release.LOCAL_UPDATE}), knows=frozenset({Knowledge.ARCHITECTURE, Knowledge.WEIGHTS}),
    )  # fmt: skip

    needs_residual = True
    """The evaluator has to say how lazy the training was."""

    def __init__(self, config: Config) -> None:
        self.config = config

    def check(self, run: Any) -> None:
        """Refuse a run whose clients send no plain weight change."""
        checked(run)

    def run(self, view: AdversaryView, streams: Streams) -> Scores:
        """`images` (b, s, c, h, w) and `labels` (b, s) of each update, `gradient_loss` (b), `iterations` (b)."""
        seen, public = view.released.local_updates(), view.public
        observed = Observed(
            public.with_weights(seen.params).eval(), seen.params, dict(seen.updates), public.image_shape,
            len(public.classes), public.normalise, seen.records, view.tell,
        )  # fmt: skip
        return scores_of(self.reconstruct(observed, streams.generator()))

    def evaluate(self, scores: Sequence[Scores], truths: Sequence[Truth]) -> list[Finding]:
        """Identification, images and labels found; `truths` hold the `residual` (b) of each change.

        A change of which more than a fifth lies outside the gradients of its own records was not made by lazy training,
        as the attack presumes: INCONCLUSIVE. It may identify records all the same; the note tells how many.
        """
        shown, truth = first(scores, truths)
        worst = float(truth["residual"].max())
        status = Status.MEASURED if worst <= LAZY else Status.INCONCLUSIVE
        said = "" if worst <= LAZY else f"residual {worst:.2f} above {LAZY}: training was not lazy, the premise fails"
        return [
            replace(
                one, status=status, note="; ".join(part for part in (one.note, said) if part),
                details={**one.details, "residual": worst},
            )
            for one in findings_of("ntk_reconstruction", self.threat, shown, truth, Release.LOCAL_UPDATE)
        ]  # fmt: skip

    def reconstruct(self, observed: Observed, rng: torch.Generator) -> Reconstruction:
        """Images, and labels by their duals, of each θ₀ − θ_T; `gradient_loss` is the loss, 0 where all is explained.

        `observed.num_classes` is the number of outputs; of one alone the label is 1 where its dual is positive.
        """
        tangent = Tangent(observed, self.config.candidates * observed.records)
        if not (tangent.power > 0).all():
            raise UserError("ntk_reconstruction: got a weight change of 0; valid: weights that training has moved")
        device = tangent.power.device
        start = seeded(observed.problems, self.config.restarts, rng, tangent.start)
        tries = [(problem, attempt) for problem in range(observed.problems) for attempt in range(self.config.restarts)]
        points, losses = [], []
        for place in range(0, len(tries), self.config.width):
            some = tries[place : place + self.config.width]
            problem = torch.tensor([one for one, _ in some], device=device)
            point = self._descend(tangent, problem, torch.stack([start(*one) for one in some]))
            points.append(point)
            losses.append(tangent.loss(observed.network, problem, point).detach())
        loss = torch.nan_to_num(torch.cat(losses), nan=float("inf")).view(observed.problems, -1)
        best = loss.argmin(1) + torch.arange(observed.problems, device=device) * self.config.restarts
        return self._kept(tangent, torch.cat(points)[best], loss.amin(1))

    def _descend(self, tangent: Tangent, problem: Tensor, start: Tensor) -> Tensor:
        """Adam from `start`; attempts do not touch one another."""
        config, network = self.config, tangent.observed.network
        if config.sharpness is not None:
            network = softplus(network, config.sharpness[0])
        point = start.clone().requires_grad_()
        optimiser = torch.optim.Adam([point], lr=config.learning_rate)
        for step in range(config.iterations):
            done = step / config.iterations
            if config.sharpness is not None:
                low, high = config.sharpness
                _sharpen(network, low * (high / low) ** done)
            optimiser.param_groups[0]["lr"] = config.learning_rate * rate(done)
            (point.grad,) = torch.autograd.grad(tangent.loss(network, problem, point).sum(), point)
            optimiser.step()
            tangent.observed.tell(len(problem))
        return point.detach()

    def _kept(self, tangent: Tangent, points: Tensor, loss: Tensor) -> Reconstruction:
        """As many images as there are records: those of the largest duals."""
        seen = tangent.observed
        images, duals = tangent.split(torch.arange(seen.problems, device=points.device), points)
        best = duals.norm(dim=2).topk(seen.records, dim=1).indices
        rows = torch.arange(seen.problems, device=points.device)[:, None]
        images, duals = images[rows, best], duals[rows, best]
        labels = duals.argmax(2) if seen.num_classes > 1 else (duals[..., 0] > 0).long()
        steps = torch.full((seen.problems,), self.config.iterations * self.config.restarts)
        return Reconstruction(images, labels, loss, steps)


def rate(done: float) -> float:
    """Share of the learning rate after a share `done` of the steps, both 0..1."""
    return 1.0 if done < STEADY else max(LAST, (1 - done) / (1 - STEADY))


def _sharpen(network: nn.Module, sharpness: float) -> None:
    for module in network.modules():
        if isinstance(module, nn.Softplus):
            module.beta = sharpness  # pyright: ignore[reportAttributeAccessIssue]


if __name__ == "__main__":
    alone(__file__)
