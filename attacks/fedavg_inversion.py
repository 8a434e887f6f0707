"""Inverting a FedAvg update: the client's local steps are unrolled, and the weights it sent back are matched.

    Δ(x̂) = θ − θ_T(x̂)      θ_{t+1} = θ_t − η ∇_θ ℓ(φ_{θ_t}; batch t of x̂)      min_x̂  1 − cos( Δ(x̂), θ − θ_T* ) +
    λ TV(x̂)

    η  the client's learning rate      T  its steps: epochs × s / batch, over consecutive batches of the records

Records have no order of their own, so that every epoch passes the same batches: a client that shuffles anew each epoch
takes another path, and the attacker cannot know it. An unknown η is one more variable, its logarithm; the angle
depends on it through the curvature of the path alone, so with one step it is not identified, and does not matter.

Source  Geiping, Bauermeister, Dröge, Moeller, NeurIPS 2020 (arXiv 2003.14053), on federated averaging.
Code    JonasGeiping/invertinggradients (MIT, facts only): local steps with create_graph, differences of weights
        matched.
Differs plain SGD; the search over η.
Reduces with one epoch of one batch, to inverting_gradients.py: Δ = η g.
Cost    T times that of inverting_gradients.py, in time and in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int64, Shaped
from pydantic import Field
from torch import Tensor

from attacks.alone import alone
from attacks.gradient_findings import findings_of, first, scores_of
from attacks.gradient_matching import Gradients, Matching, Observed, Reconstruction, cosine, gradient
from attacks.inverting_gradients import AdamConfig, recovered
from fedsim.audit.types import Finding, Knowledge, Release, Scores, ThreatModel, Truth
from fedsim.audit.updates import checked
from fedsim.audit.view import AdversaryView
from fedsim.models.functional import trainable_names
from fedsim.models.network import Network
from fedsim.seeding import Streams
from fedsim.types import Params, UserError

START = 0.1
"""η at which the search for an unknown one begins."""


@dataclass(frozen=True)
class Update:
    """Δ of local SGD on one client's records: a `gradient_matching.Release`."""

    epochs: int
    batch: int
    """Records of a step; 0: all. The last batch of an epoch may be smaller."""
    learning_rate: float | None
    """η; None: its logarithm is the further unknown."""

    def __call__(
        self,
        network: Network,
        params: Params,
        images: Float[Tensor, "s c h w"],
        labels: Shaped[Tensor, "s *k"],
        further: Float[Tensor, "e"],
    ) -> Gradients:
        """θ − θ_T, differentiable."""
        rate = further[0].exp() if self.learning_rate is None else self.learning_rate
        names = trainable_names(network)
        size = self.batch or len(images)
        weights = {name: params[name] for name in names}
        for _ in range(self.epochs):
            for rows, truth in zip(images.split(size), labels.split(size), strict=True):
                step = gradient(network, params | weights, rows, truth, further)
                weights = {name: weights[name] - rate * step[name] for name in names}
        return {name: params[name] - weights[name] for name in names}


class Config(AdamConfig):
    """Settings of the inversion of FedAvg updates."""

    name: Literal["fedavg_inversion"] = "fedavg_inversion"
    protocol: Literal["run", "settings"] = "run"
    """What an audit's attacker takes the client to have done: what the run's server asked of it (epochs, batch,
    learning rate), or the three settings below, which may be mistaken."""
    epochs: int = Field(default=1, ge=1)
    """The client's passes over its records."""
    batch: int = Field(default=0, ge=0)
    """Records of a local step; 0: all."""
    local_rate: float | None = Field(default=None, gt=0)
    """The client's learning rate; null: not known, searched for."""


class FedAvgInversion:
    """A curious server that was sent the weights after local training."""

    Config = Config
    threat = ThreatModel(
        name="curious_server",
        position="server",
        behaviour="passive",
        sees=frozenset({Release.LOCAL_UPDATE}),
        knows=frozenset({Knowledge.ARCHITECTURE, Knowledge.WEIGHTS, Knowledge.HYPERPARAMETERS}),
        adjacency="replace",
    )

    def __init__(self, config: Config) -> None:
        self.config = config

    def check(self, run: Any) -> None:
        """Refuse a run whose local training cannot be unrolled, and settings with which no label can be counted."""
        checked(run)
        fields = ((name, Config.model_fields[name].default) for name in ("epochs", "batch", "local_rate"))
        given = [name for name, default in fields if getattr(self.config, name) != default]
        if self.config.protocol == "run" and given:
            raise UserError(
                f"fedavg_inversion: got {given[0]} with protocol: run, which takes the run's own; valid: leave it out, "
                "or protocol: settings"
            )
        if self.config.protocol == "settings" and self.config.local_rate is None:
            raise UserError("fedavg_inversion: got protocol: settings without local_rate; labels are counted with it; "
                            "valid in an audit: a local_rate, or protocol: run")  # fmt: skip

    def run(self, view: AdversaryView, streams: Streams) -> Scores:
        """`images` (b, s, c, h, w) and `labels` (b, s) of each update, `gradient_loss` (b), `iterations` (b)."""
        seen, public = view.released.local_updates(), view.public
        config = self.config
        if config.protocol == "run":
            asked = {"epochs": seen.epochs, "batch": seen.batch, "local_rate": seen.rate}
            config = config.model_copy(update=asked)
        network = public.with_weights(seen.params).eval()
        observed = Observed(
            network, seen.params, dict(seen.updates), public.image_shape, len(public.classes), public.normalise,
            seen.records, view.tell,
        )  # fmt: skip
        return scores_of(FedAvgInversion(config).reconstruct(observed, None, streams.generator()))

    def evaluate(self, scores: Sequence[Scores], truths: Sequence[Truth]) -> list[Finding]:
        """Identification among held-out records, images found, labels found."""
        return findings_of("fedavg_inversion", self.threat, *first(scores, truths), Release.LOCAL_UPDATE)

    @property
    def update(self) -> Update:
        """What the attacker takes the client to have done."""
        return Update(self.config.epochs, self.config.batch, self.config.local_rate)

    def reconstruct(
        self, observed: Observed, labels: Int64[Tensor, "b s"] | None, rng: torch.Generator
    ) -> Reconstruction:
        """Images of each target θ − θ_T.

        Labels that are not known are counted as if Δ / (η T) were one gradient; that needs η, or raises `UserError`.
        """
        if labels is None:
            labels = recovered(self._as_gradient(observed), rng)
        unknown = self.config.local_rate is None
        further = torch.tensor([START]).log() if unknown else torch.zeros(0)
        variation = self.config.total_variation
        matching = Matching(observed, labels, cosine, self.update, variation, further)
        return self.config.descend(matching, rng)

    def _as_gradient(self, observed: Observed) -> Observed:
        if self.config.local_rate is None:
            raise UserError(
                "fedavg_inversion: labels and local_rate are both unknown; valid: at least one of them given"
            )
        steps = self.config.epochs * -(-observed.records // (self.config.batch or observed.records))
        scale = self.config.local_rate * steps
        targets = {name: value / scale for name, value in observed.targets.items()}
        return Observed(**{**vars(observed), "targets": targets})


if __name__ == "__main__":
    alone(__file__)
