"""Gradient methods of a private owner: each step asks for noisy sums of gradients that are clipped record by record.

    dc, dsa, idc       row_i = ∇_θ ℓ(A_ω(x_i), c; θ_t)              ṽ_c = Σ_{i: y_i = c} [clip_C(row_i), κ] + noise
                       g_c^T ≈ ṽ_c / (q max(n̂_c, n_min))            then D(g_c^S, g_c^T) and the descent as they are
    meta_knowledge     row_i = φ_i ∇_w ℓ(w′; x_i, y_i)              ṽ = Σ_i [clip_C(row_i), κ e_{y_i}] + noise
                       g ≈ ṽ / (q max(Σ_c n̂_c, n_min))              then ∂⟨w′, g⟩/∂S and the descent as they are

    θ, w, w′, φ, A_ω   of dc.py, dsa.py, idc.py and meta_knowledge.py      C, κ, q, n_min   of `privacy: gradients`
    n̂_c                noisy counts, mean over the releases so far         noise   privacy/mechanism.py, pooled.py

A row holds the weights that D reads and no others: with `metric: cosine` no biases and norm layers, with IDC's metrics
filters only. φ_i is of the record's own loss and inside the clip, so that it says nothing of another record. An
operation ω is drawn per class from the public stream of the step. Networks, S and w′ are functions of releases before
and of public draws (adaptive composition): descent, inner training and D are post-processing, repeated at no cost. S is
seen by everyone in the end, and no method here trains its network on real images.

Source  the methods' own files; clipping record by record: Abadi et al., CCS 2016, arXiv 1607.00133.
Code    none read.
Differs every class gets `ipc` images whatever it holds; a class whose noisy count is under n_min is left out of the set
        at the end. Until then its images are there: `dc` and `idc` train their network on them, `meta_knowledge` w′.
        The question names the weights that the round starts from, the step, the network and the views, not the round:
        a step asked again is answered from the ledger.
Reduces C → ∞, σ → 0, q = 1, n_min ≤ n_c: the method with `batch_real: 0`, for classes that are held.
Cost    record_gradients.py; T releases of k (p + 1) entries (`meta_knowledge`: p + k) a round.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from fedsim.catalog import resolve
from fedsim.config import Section
from fedsim.data.synthetic import SyntheticSet
from fedsim.distill.base import Task
from fedsim.distill.class_gradients import Distance, Gradients
from fedsim.distill.cost import Passes
from fedsim.distill.gradient import dc, idc, meta_knowledge
from fedsim.distill.record_gradients import as_gradients, record_gradients, width
from fedsim.distill.releases import Counted, ask, count, nothing_counted, owner, question, remaining
from fedsim.models.functional import call, flatten, unflatten
from fedsim.types import Params


@dataclass
class State(dc.State, Counted):
    """That of `dc` and `dsa`."""


@dataclass
class FilterState(idc.State, Counted):
    """That of `idc`."""


@dataclass
class MetaState(meta_knowledge.State, Counted):
    """That of `meta_knowledge`."""


COUNTED: dict[type, type] = {dc.State: State, idc.State: FilterState, meta_knowledge.State: MetaState}
"""State of a method → the same with counts."""
OF_IMAGES = ("pixels", "first", "second", "logits", "logits_first", "logits_second")
"""What a state has a row of for each synthetic image; of label logits where they are learned."""
READ: dict[Distance, tuple[int, ...]] = {
    dc.layerwise_cosine: (2, 3, 4), dc.squared_distance: (0, 1, 2, 3, 4),
    idc.squared_filters: (4,), idc.absolute_filters: (4,),
}  # fmt: skip
"""D → dimensions of the weights it reads."""


class PrivateGradients:
    """One of the gradient methods, its real side asked of `PrivateImages`; `least` is n_min."""

    def __init__(self, config: Section, least: float) -> None:
        self.config: Any = config
        self.least = least
        self.method: Any = resolve("method", self.config.name)(config)
        self.Config = type(config)
        if isinstance(self.method, meta_knowledge.MetaKnowledge):
            self.method.outer = self._outer
        else:
            self.method.theirs = self._theirs

    def prepare(self, task: Task, rng: torch.Generator) -> Any:
        """As the method."""
        owner(task)
        return self.method.prepare(task, rng)

    def init(self, task: Task, artifacts: Any, rng: torch.Generator) -> Any:
        """As the method; nothing has been counted."""
        first = self.method.init(task, artifacts, rng)
        return COUNTED[type(first)](**vars(first), counts=nothing_counted(task))

    def step(self, task: Task, artifacts: Any, state: Any, rng: torch.Generator) -> dict[str, Tensor]:
        """As the method; one release."""
        return self.method.step(task, artifacts, state, rng)

    def result(self, task: Task, state: Any) -> SyntheticSet:
        """As the method, of the classes that are believed in."""
        reduced, rows = remaining(task, state.counts, self.least)
        cut = {name: one[rows] for name, one in vars(state).items() if name in OF_IMAGES and len(one)}
        return self.method.result(reduced, replace(state, **cut))

    def passes(self, counts: Int64[Tensor, "k"]) -> Passes:
        """As the method."""
        return self.method.passes(counts)

    def _theirs(self, task: Task, state: Any, views: Any, rng: torch.Generator) -> Iterator[Gradients]:
        """ṽ_c of every class as a mean gradient."""
        params = unflatten(state.weights, task.network.state_dict())
        names = [name for name, one in task.network.named_parameters() if one.ndim in READ[self.method.distance]]

        def rows(images: Tensor, labels: Tensor) -> Float[Tensor, "n p"]:
            seen = images.clone()
            for label in range(task.num_classes):
                seen[labels == label] = self.method.see(images[labels == label], label, views)
            return record_gradients(task.runner, params, names, seen, labels)

        described = {"now": state.weights, "views": views}
        name = question(task, "gradients", int(state.steps), described, names)
        found = ask(owner(task).release, task, name, rows, width(params, names))
        count(state.counts, found.counts, state.steps)
        means = found.values[:, :-1] / (found.rate * state.counts.clamp(min=self.least)).unsqueeze(1)
        for row in means:
            yield as_gradients(row, params, names)

    def _outer(
        self, task: Task, state: Any, after: Params, rng: torch.Generator
    ) -> tuple[dict[str, Tensor], Gradients]:
        """ṽ as the mean of weighted gradients at w′, and its norm."""
        config: meta_knowledge.Config = self.config
        own, names = task.network.state_dict(), [name for name, _ in task.network.named_parameters()]
        before = unflatten(state.weights, own)

        def rows(images: Tensor, labels: Tensor) -> Float[Tensor, "n p"]:
            gradients = record_gradients(task.runner, after, names, images, labels)
            if config.weights == "equal":
                return gradients
            losses = F.cross_entropy(call(task.network, before, "forward", images), labels, reduction="none")
            return meta_knowledge.dynamic_weights(losses, config.tau).unsqueeze(1) * gradients

        described = {"now": state.weights, "after": flatten(after).detach()}
        facts = [*names, config.weights, str(config.tau)]
        name = question(task, "weighted gradients", int(state.steps), described, facts)
        found = ask(owner(task).release_pooled, task, name, rows, width(own, names))
        count(state.counts, found.counts, state.steps)
        mean = found.mean(state.counts, self.least)
        return {"gradient": mean.norm()}, as_gradients(mean, own, names)
