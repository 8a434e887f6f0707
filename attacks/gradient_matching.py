"""The problem behind every gradient-leakage attack: images whose gradient is the one that was seen; b of them at once.

    min_x̂,ŷ  D( u(θ, x̂, ŷ), u* ) + λ TV(x̂)

    u*  what a client let out: its gradient, or its update      u  what the images x̂ with labels ŷ would have let out
    θ   the weights it was sent      D  squared or cosine distance over all weights      TV  total variation, a prior

    b problems      a of them, evaluated together      s records of a problem      k classes      v variables of a
    problem

All b problems share θ (one round, many clients), or each has its own. u is taken by vmap over problems of
torch.func.grad over weights, D backwards by autograd through it: many problems share what one spends on overhead
(benchmarks/gradient_leakage.py times it against one image at a time). Products are in float32 as they are: in a GPU's
TensorFloat-32 the loss ends far above any tolerance worth setting.

Pixels are optimised in units of the network input. Weights of the network object are never read, nor are buffers
changed; rows must not see one another, so a batch norm has to be in evaluation mode.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, Shaped
from torch import Tensor

from attacks.attempts import Minimum, Start, seeded
from fedsim.data.transforms import Normalise
from fedsim.models.functional import call, has_batch_norm, trainable_names
from fedsim.models.network import Network
from fedsim.privacy.owner import full_precision
from fedsim.types import Params, UserError

Gradients = dict[str, Tensor]
"""Name of a weight → its gradient or update; problems first where there are several."""
Distance = Callable[[Gradients, Gradients], Tensor]
"""D(ours, theirs) of a problems, (a,)."""
Release = Callable[[Network, Params, Tensor, Tensor, Tensor], Gradients]
"""u of one problem: (network, its weights and buffers, images (s, c, h, w), labels (s,) or shares of classes (s, k),
further unknowns (e,)) → what is let out, by name of the weight; differentiable."""


def squared(ours: Gradients, theirs: Gradients) -> Float[Tensor, "a"]:
    """Σ_l ‖u_l − u*_l‖²: a sum, not a mean."""
    return torch.stack([(ours[name] - theirs[name]).square().flatten(1).sum(1) for name in ours]).sum(0)


def squared_where_sent(ours: Gradients, theirs: Gradients) -> Float[Tensor, "a"]:
    """Σ_l ‖1[u*_l ≠ 0] (u_l − u*_l)‖²: of a gradient that was pruned before it left, the entries that were sent."""
    return squared({name: torch.where(theirs[name] != 0, ours[name], theirs[name]) for name in ours}, theirs)


def cosine(ours: Gradients, theirs: Gradients) -> Float[Tensor, "a"]:
    """1 − ⟨u, u*⟩ / ‖u‖‖u*‖: one cosine over all weights jointly, not one for each layer."""
    inner, left, right = (
        torch.stack([(one[name] * other[name]).flatten(1).sum(1) for name in ours]).sum(0)
        for one, other in ((ours, theirs), (ours, ours), (theirs, theirs))
    )
    return 1 - inner / (left * right).sqrt()


def total_variation(images: Float[Tensor, "a s c h w"]) -> Float[Tensor, "a"]:
    """Mean |difference| of vertical neighbours, and of horizontal ones; their sum."""
    rows, columns = images.diff(dim=-2), images.diff(dim=-1)
    return rows.abs().flatten(1).mean(1) + columns.abs().flatten(1).mean(1)


def gradient(
    network: Network, params: Params, images: Float[Tensor, "s c h w"], labels: Shaped[Tensor, "s *k"], further: Tensor
) -> Gradients:
    """∇_θ of the mean cross-entropy of one problem: what FedSGD sends. It has no further unknowns."""
    names = trainable_names(network)

    def loss(weights: Gradients) -> Tensor:
        return F.cross_entropy(call(network, params | weights, "forward", images), labels)

    return torch.func.grad(loss)({name: params[name] for name in names})


@dataclass(frozen=True)
class Observed:
    """What the attacker holds: b targets, and everything it knows about how they came to be."""

    network: Network
    """The architecture."""
    params: Params
    """θ, by name of `state_dict()`: shared by all problems, or stacked with b first."""
    targets: Gradients
    """u*, b first."""
    image_shape: tuple[int, int, int]
    num_classes: int
    normalise: Normalise
    records: int = 1
    """s."""
    tell: Callable[[int], None] = field(default=lambda steps: None)
    """Called with the number of gradients of D that were just taken, for whoever watches."""

    def __post_init__(self) -> None:
        names = trainable_names(self.network)
        if sorted(self.targets) != names:
            odd = sorted(set(self.targets) ^ set(names))
            raise UserError(f"targets: missing or unknown {', '.join(odd[:3])}; valid: one for each weight")
        if self.network.training and has_batch_norm(self.network):
            raise UserError("got a batch norm in training mode, where records see one another; call network.eval()")
        if self.records < 1:
            raise UserError(f"records: got {self.records}; valid: at least 1")
        shapes = {tuple(self.params[name].shape) for name in names[:1]}
        plain = tuple(self.targets[names[0]].shape[1:])
        if not shapes <= {plain, (self.problems, *plain)}:
            raise UserError(
                f"params: got {names[0]} of shape {shapes.pop()}; valid: {plain}, or {self.problems} of them stacked"
            )

    @property
    def problems(self) -> int:
        """b."""
        return len(next(iter(self.targets.values())))

    @property
    def stacked(self) -> bool:
        """Whether each problem has its own θ."""
        name = next(iter(self.targets))
        return self.params[name].ndim == self.targets[name].ndim


def stack(each: Sequence[Params]) -> Params:
    """Gradients or weights of several problems as one, problems first."""
    return {name: torch.stack([one[name] for one in each]) for name in each[0]}


@dataclass(frozen=True)
class Reconstruction:
    """What an attack made of b targets."""

    images: Float[Tensor, "b s c h w"]
    """Pixels, de-normalised and not clamped: in 0..1 only where the attack keeps them there."""
    labels: Int64[Tensor, "b s"]
    """In the order of the images, which is any order: a gradient is a sum."""
    gradient_loss: Float[Tensor, "b"]
    """D without the prior: what the best attempt was chosen by."""
    iterations: Int64[Tensor, "b"]
    """Steps taken, those of all attempts together."""


@dataclass(frozen=True)
class Matching:
    """D + λ TV of b problems and its gradient: an `attempts.Objective`. Variables are images, logits of ŷ, the rest."""

    observed: Observed
    labels: Int64[Tensor, "b s"] | None
    """Known or recovered before; None: logits of ŷ are variables."""
    distance: Distance = squared
    release: Release = gradient
    variation: float = 0.0
    """λ."""
    further: Float[Tensor, "e"] = field(default_factory=lambda: torch.zeros(0))
    """Where further unknowns start."""

    def __post_init__(self) -> None:
        shape = (self.observed.problems, self.observed.records)
        if self.labels is not None and tuple(self.labels.shape) != shape:
            raise UserError(f"labels: got shape {tuple(self.labels.shape)}; valid: {shape}, problems by records")

    def __call__(
        self, problem: Int64[Tensor, "a"], variables: Float[Tensor, "a v"]
    ) -> tuple[Float[Tensor, "a"], Float[Tensor, "a v"]]:
        """Values, and gradients by the variables; constants."""
        with torch.enable_grad(), full_precision():
            leaf = variables.detach().requires_grad_()
            loss = self._distance(problem, leaf)
            if self.variation:
                loss = loss + self.variation * total_variation(self.split(leaf)[0])
            (found,) = torch.autograd.grad(loss.sum(), leaf)
        self.observed.tell(len(problem))
        return loss.detach(), found

    @torch.no_grad()
    def score(self, problem: Int64[Tensor, "a"], variables: Float[Tensor, "a v"]) -> Float[Tensor, "a"]:
        """D alone."""
        with full_precision():
            return self._distance(problem, variables)

    def _distance(self, problem: Tensor, variables: Tensor) -> Tensor:
        seen = self.observed
        images, logits, further = self.split(variables)
        labels = logits.softmax(-1) if self.labels is None else self.labels[problem]
        params = {name: value[problem] for name, value in seen.params.items()} if seen.stacked else seen.params

        def one(params: Params, images: Tensor, labels: Tensor, further: Tensor) -> Gradients:
            return self.release(seen.network, params, images, labels, further)

        each = torch.func.vmap(one, in_dims=(0 if seen.stacked else None, 0, 0, 0))
        theirs = {name: target[problem] for name, target in seen.targets.items()}
        return self.distance(each(params, images, labels, further), theirs)

    def split(self, variables: Float[Tensor, "a v"]) -> tuple[Tensor, Tensor, Tensor]:
        """Images (a, s, c, h, w), logits of ŷ (a, s, k) or (a, 0), further unknowns (a, e)."""
        pixels, logits, rest = variables.split(self._sizes(), dim=1)
        images = pixels.unflatten(1, (self.observed.records, *self.observed.image_shape))
        return images, logits if self.labels is not None else logits.unflatten(1, (self.observed.records, -1)), rest

    def _sizes(self) -> list[int]:
        seen = self.observed
        channels, height, width = seen.image_shape
        logits = seen.records * seen.num_classes if self.labels is None else 0
        return [seen.records * channels * height * width, logits, len(self.further)]

    def start(self, restarts: int, rng: torch.Generator) -> Start:
        """Images and logits from N(0, 1) in units of the network input, as all these papers draw them."""
        pixels, logits, _ = self._sizes()
        like = next(iter(self.observed.targets.values()))

        def draw(rng: torch.Generator) -> Tensor:
            return torch.cat([torch.randn(pixels + logits, generator=rng).to(like), self.further.to(like)])

        return seeded(self.observed.problems, restarts, rng, draw)

    def project(self, variables: Float[Tensor, "a v"]) -> Float[Tensor, "a v"]:
        """Pixels into 0..1; all else as it is."""
        images = self.split(variables)[0]
        inside = self.observed.normalise.project(images.flatten(0, 1)).reshape(len(variables), -1)
        return torch.cat([inside, variables[:, inside.shape[1] :]], dim=1)

    def reconstruction(self, minimum: Minimum) -> Reconstruction:
        """The variables as images and labels."""
        images, logits, _ = self.split(minimum.variables)
        pixels = self.observed.normalise.pixels(images.flatten(0, 1)).view_as(images)
        labels = logits.argmax(-1) if self.labels is None else self.labels
        return Reconstruction(pixels, labels, minimum.loss, minimum.iterations)
