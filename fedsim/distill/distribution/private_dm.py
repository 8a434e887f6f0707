"""Distribution Matching of a private owner: the noisy class sums of networks, then steps at no cost.

    precomputed   once, for networks w_1 … w_M: ṽ_j; every step takes a random j           M releases
    per_step      every step t draws a network w_t and asks for ṽ_t                        T releases

    ṽ_j = Σ_c noisy sums of clip_C(Pᵀ(ψ_j(x) − a_j))
    S ← S − η ∇ Σ_c ‖ target_jc − mean_{s ∈ S_c} clip_C(Pᵀ(ψ_j(s) − a_j)) ‖²

    ψ_j  [embedding, logits] under w_j and its augmentation      a_j       mean of ψ_j over public images
    C    clipping norm, the same on both sides                   target    ṽ / max(n̂, n_min) (privacy/mechanism.py)
    P    directions of a subspace (subspace.py), or all          n̂        noisy counts, mean over the releases so far

The descent sees noisy sums only: it may take any number of steps, be logged, stopped and repeated (post-processing).
An image of class c is uploaded with the weight n̂_c / ipc: how many records it stands for.

Source  Zhao and Bilen, "Dataset Condensation with Distribution Matching", WACV 2023, arXiv 2110.04181, Equation 4.
        FedDM (Xiong et al., CVPR 2023, arXiv 2207.09653) matches embedding and logits, and its abstract says that it
        can be made private with the Gaussian mechanism; how was not found. Mechanism, centre, count, and noise that is
        drawn once are choices made here; noise once and training afterwards is DP-MERF's (Harder et al., AISTATS 2021).
Code    none read.
Differs every class gets `ipc` images whatever it holds, since min(ipc, n_c) tells n_c; classes with a noisy count under
        n_min are left out of the set at the end; starts from noise; a release is of all real images or of a Poisson
        sample, never of a batch of fixed size.
Reduces C → ∞, σ → 0: `dm` with `batch_real: 0`, for any centre, with a pool of M networks (precomputed) or with new
        networks (per_step).
Cost    a forward pass over the real images per release, then a forward and a backward of S per step. Precomputed
        networks are kept in memory; a release is kept on disk: 8 k (d + 1) bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from fedsim.catalog import resolve
from fedsim.config import Section
from fedsim.data.synthetic import SyntheticSet
from fedsim.distill import descent
from fedsim.distill.base import Task
from fedsim.distill.cost import Passes, batch_size
from fedsim.distill.distribution.dm import Config, DistributionMatching, squared_distances
from fedsim.distill.matching import class_means, class_sums
from fedsim.distill.networks import Fresh, FreshConfig, Perturb, PerturbConfig
from fedsim.distill.noisy_networks import NoisyNetwork, Seeing, ask
from fedsim.distill.pixels import finish, start
from fedsim.distill.pool import PoolConfig
from fedsim.privacy.features import Config as Privacy
from fedsim.privacy.owner import PrivateImages
from fedsim.types import UserError


@dataclass
class State(descent.Images):
    """Images, optimiser, and the noisy counts that the result is cut and weighted by."""

    counts: Float64[Tensor, "k"]
    """n̂, mean over the releases so far."""


def believed(counts: Float64[Tensor, "k"], least: float) -> Bool[Tensor, "k"]:
    """Classes with a noisy count of at least n_min, or the one with the largest."""
    return (counts >= least) | ((counts == counts.max()) & (counts < least).all())


class PrivateMatching:
    """The distiller for a task whose real images are `PrivateImages`."""

    Config: type[Section] = Config

    def __init__(self, config: Section | None, privacy: Privacy) -> None:
        self.config, self.privacy = check(config, privacy), privacy
        self.seeing = Seeing(DistributionMatching(self.config).look, self.config.augment, self.config.match)

    def prepare(self, task: Task, rng: torch.Generator) -> list[NoisyNetwork]:
        """Draw the networks and ask for the noisy sums of each; nothing where every step does."""
        networks = self.config.networks.size if self.privacy.mode == "precomputed" else 0
        return [self._network(task, rng, 0) for _ in range(networks)]

    def init(self, task: Task, artifacts: list[NoisyNetwork], rng: torch.Generator) -> State:
        """Noise in the box."""
        images = descent.Images.start(start(task, "noise", rng))
        known = [one.counts for one in artifacts] or [torch.zeros(task.num_classes, dtype=torch.float64)]
        return State(images.pixels, images.first, images.second, images.steps, torch.stack(known).mean(0))

    def step(self, task: Task, artifacts: list[NoisyNetwork], state: State, rng: torch.Generator) -> dict[str, Tensor]:
        """One projected step on the images, towards the targets of one network."""
        assert isinstance(task.real, PrivateImages), "a release was asked for"
        if artifacts:
            network = artifacts[int(torch.randint(len(artifacts), (), generator=rng))]
        else:
            network = self._network(task, rng, int(state.steps))
            state.counts += (network.counts - state.counts) / (state.steps + 1)
        images = state.pixels.detach().requires_grad_()
        rows = network.rows(task, self.seeing, images, task.real.mechanism.clip)
        means = class_means(class_sums(rows, task.labels(), task.num_classes), task.budget.to(task.device))
        kept = believed(state.counts, self.privacy.least).to(task.device)
        loss = torch.where(kept, squared_distances(network.target, means), 0.0).sum()
        (gradient,) = torch.autograd.grad(loss, images)
        descent.descend(
            state, gradient, task.normalise,
            optimiser=self.config.optimiser, lr=self.config.lr, momentum=self.config.momentum,
        )  # fmt: skip
        return {"loss": loss.detach() / kept.sum()}

    def result(self, task: Task, state: State) -> SyntheticSet:
        """The images of the classes that are believed in, in bytes, each with its share of the class's noisy count."""
        kept = believed(state.counts, self.privacy.least)
        rows = kept[task.labels().cpu()].to(task.device)
        reduced = replace(task, budget=torch.where(kept, task.budget.cpu(), 0))
        found = finish(reduced, state.pixels[rows], method=self.config.name, init=self.config.init)
        if not self.privacy.weighted:
            return found
        counts = state.counts.clamp(1.0, float(self.privacy.public_bound))  # what an upload may claim
        return replace(found, weights=(counts / task.budget.cpu().clamp(min=1))[found.labels].float())

    def passes(self, counts: Int64[Tensor, "k"]) -> Passes:
        """The real images that take part once per release, the synthetic ones every step."""
        ours = self.config.ipc * len(counts)
        taking_part = round(self.privacy.rate * batch_size(counts, 0))
        return Passes(releases(self.privacy, self.config) * taking_part, self.config.iterations * ours)

    def _network(self, task: Task, rng: torch.Generator, step: int) -> NoisyNetwork:
        """The next network, with its release."""
        networks = self.config.networks
        if isinstance(networks, PoolConfig):
            around = PerturbConfig(radius=networks.radius)
            server = networks.around == "server"
            source = Perturb(around, self.config.augment) if server else Fresh(FreshConfig(), self.config.augment)
        else:
            source = resolve("networks", networks.name)(networks, self.config.augment)
        return ask(task, source.draw(task, None, rng, step), self.seeing, self.privacy, rng)


def releases(privacy: Privacy, config: Config) -> int:
    """Releases of one client in one round."""
    return config.iterations if privacy.mode == "per_step" else config.networks.size


def check(config: Section | None, privacy: Privacy) -> Config:
    """Settings of `dm` that noisy class sums can serve; anything else is refused with the reason in one line."""
    if type(config) is not Config:  # a subclass may ask for more
        name = getattr(config, "name", "?")
        reason = REFUSED.get(name, "what it takes of real images is no per-class sum of one vector per image")
        raise UserError(f"privacy: method {name}: {reason}; valid: dm")
    if config.init != "noise":
        raise UserError(f"method.init: got {config.init}; under privacy real images never leave; valid: noise")
    _check_networks(config.networks, privacy.mode)
    if config.batch_real:
        raise UserError(
            f"method.batch_real: got {config.batch_real}; valid under privacy: 0: a release takes all images, "
            "or a Poisson sample of them (privacy.rate)"
        )
    return config


def _check_networks(networks: Any, mode: str) -> None:
    pool = isinstance(networks, PoolConfig)
    if mode == "precomputed" and (not pool or networks.refresh or networks.shared):
        raise UserError(
            "method.networks: under privacy every network is a release, and all are drawn before the first step; "
            "valid: pool with refresh: 0 and shared: false; fresh and perturb with privacy.mode: per_step"
        )
    if mode == "per_step" and not isinstance(networks, FreshConfig | PerturbConfig):
        raise UserError(
            f"method.networks: got {networks.name}; under privacy.mode: per_step every step draws a network and "
            "releases its sums; valid: fresh, perturb"
        )


SELECTS = "it uploads real images"
GRADIENTS = "it matches gradients of a batch, whose records would have to be clipped one by one"
REFUSED = dict.fromkeys(("random", "herding", "k_center", "forgetting", "k_means"), SELECTS) | {
    "dc": GRADIENTS,
    "dsa": GRADIENTS,
    "idc": GRADIENTS,
    "meta_knowledge": GRADIENTS,
    "dd": "it descends the loss of a batch, whose records would have to be clipped one by one",
    "model_augmentation": "its networks are trained on real images",
    "cafe": "its discrimination term scores every real image against the class centres",
    "datadam": "attention and embedding are weighted apart, and no clipping norm is known for both",
    "ncfm": "its frequencies are chosen on batches of real images",
}
"""Why other methods of the catalog cannot be private in this way."""
