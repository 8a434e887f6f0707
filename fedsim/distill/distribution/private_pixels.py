"""Distribution Matching of a private owner as DP-SGD would do it: each record's own part of the gradient of the images.

    L_c(S_c) = ‖ m_c − s̄_c ‖²      m_c = 1/n_c Σ_i ψ(x_i)      s̄_c = mean_{s ∈ S_c} ψ(s)      J_c = ∂ s̄_c / ∂ S_c

    ∇_{S_c} L_c = −2 J_cᵀ (m_c − s̄_c) = 1/n_c Σ_{i: y_i = c} row_i             row_i = −2 J_cᵀ (ψ(x_i) − s̄_c)

    ṽ_c = Σ_{i: y_i = c} [clip_C(row_i), κ] + noise          S_c ← S_c − η ṽ_c / (q max(n̂_c, n_min))

    ψ   [embedding, logits] under the network and augmentation of the step      d   its length
    J_c d × D, D = ipc · c · h · w pixels: a row has D entries                  κ, q, n_min   of `privacy: gradients`

S and the network are the same for all records, so that the gradient is affine in m_c, and m_c is a mean over records:
hence rows that each depend on one record and add up to it. Noise goes into D dimensions instead of d, and is drawn in
every step, as J_c moves; private_dm.py noises the class sums of ψ once instead. It is here for that comparison.

Source  DM and FedDM as dm.py. FedDM's abstract says that it can be made private with the Gaussian mechanism; its text
        on sensitivity was not found, and this is derived from the equation, not theirs.
Code    none read.
Differs as private_dm.py: `ipc` images for every class, classes that are not believed left out, a start from noise.
Reduces C → ∞, σ → 0, q = 1, n_min ≤ n_c: `dm` with `batch_real: 0`, for classes that are held.
Cost    per step a forward and, for each record, a backward of ipc images; one release of k (D + 1) entries.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from fedsim.config import Section
from fedsim.data.augment import augment
from fedsim.data.synthetic import SyntheticSet
from fedsim.distill import descent
from fedsim.distill.base import Task
from fedsim.distill.cost import Passes, batch_size
from fedsim.distill.distribution.dm import Config, DistributionMatching
from fedsim.distill.networks import Draw
from fedsim.distill.pixels import finish, start
from fedsim.distill.releases import Counted, ask, count, nothing_counted, owner, question, remaining
from fedsim.models.execution import Runner
from fedsim.models.functional import model_sha256
from fedsim.privacy.owner import Embed


@dataclass
class State(descent.Images, Counted):
    """Images and optimiser, and the counts that the result is cut by."""


class PrivatePixels:
    """The distiller of `dm` for a task whose real images are `PrivateImages`; `least` is n_min."""

    Config: type[Section] = Config

    def __init__(self, config: Config, least: float) -> None:
        self.config, self.least = config, least
        self.dm = DistributionMatching(config)

    def prepare(self, task: Task, rng: torch.Generator) -> None:
        """Nothing is kept: every step draws its network."""
        owner(task)

    def init(self, task: Task, artifacts: None, rng: torch.Generator) -> State:
        """Noise in the box, or another's set."""
        return State(**vars(descent.Images.start(start(task, "noise", rng))), counts=nothing_counted(task))

    def step(self, task: Task, artifacts: None, state: State, rng: torch.Generator) -> dict[str, Tensor]:
        """One release and one projected step on the images."""
        drawn = self.dm.source.draw(task, None, rng, int(state.steps))
        task.runner.load(drawn.params)
        rows = self.rows(task, state.pixels, drawn)
        described = {"pixels": state.pixels, "views": drawn.augmentation}
        facts = [model_sha256(drawn.params), *self.config.match]
        name = question(task, "pixels", int(state.steps), described, facts)
        found = ask(owner(task).release, task, name, rows, state.pixels[0].numel() * self.config.ipc)
        count(state.counts, found.counts, state.steps)
        sizes = (found.rate * state.counts.clamp(min=self.least)).unsqueeze(1)
        gradient = (found.values[:, :-1] / sizes).view(state.pixels.shape).to(state.pixels)
        descent.descend(
            state, gradient, task.normalise,
            optimiser=self.config.optimiser, lr=self.config.lr, momentum=self.config.momentum,
        )  # fmt: skip
        return {"gradient": gradient.norm()}

    def rows(self, task: Task, pixels: Float[Tensor, "m c h w"], drawn: Draw) -> Embed:
        """row_i of records, images and labels, under the network in the runner and its augmentation."""
        written = Runner(task.network, replace(task.runner.execution, compile=False))
        look, family = self.dm.look(replace(task, runner=written), drawn.params), self.config.augment

        def vectors(images: Tensor, labels: Tensor) -> Float[Tensor, "n d"]:
            if family is not None and drawn.augmentation is not None:
                images = augment(images, labels, drawn.augmentation, family)
            return look(images)

        ours = [one.detach().requires_grad_() for one in pixels.split(self.config.ipc)]
        labels = task.labels().split(self.config.ipc)
        with torch.enable_grad():
            means = [vectors(one, label).mean(0) for one, label in zip(ours, labels, strict=True)]

        def found(images: Tensor, classes: Tensor) -> Float[Tensor, "n D"]:
            seen, each = vectors(images, classes), pixels.new_zeros((len(images), ours[0].numel()))
            for label, (own, mean) in enumerate(zip(ours, means, strict=True)):
                mine = classes == label
                if bool(mine.any()):
                    apart = -2 * (seen[mine] - mean.detach())
                    (pulled,) = torch.autograd.grad(mean, own, apart, retain_graph=True, is_grads_batched=True)
                    each[mine] = pulled.flatten(1).to(each.dtype)
            return each

        return found

    def result(self, task: Task, state: State) -> SyntheticSet:
        """The images of the classes that are believed in, in bytes."""
        reduced, rows = remaining(task, state.counts, self.least)
        return finish(reduced, state.pixels[rows], method=self.config.name, init=self.config.init)

    def passes(self, counts: Int64[Tensor, "k"]) -> Passes:
        """Every step the real images forward, and for each of them the class's synthetic images backward."""
        real, ours = batch_size(counts, 0), self.config.ipc
        return Passes(real, real * ours).times(self.config.iterations)
