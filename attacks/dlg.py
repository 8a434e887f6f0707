"""Deep Leakage from Gradients: images and soft labels together, by L-BFGS.

    min_{x̂, ŷ}  Σ_l ‖ ∇_l ℓ(φ_θ(x̂), softmax ŷ) − ∇*_l ‖²        x̂, ŷ ~ N(0, 1) at the start

    ∇*_l  gradient of layer l that was seen      ŷ  logits of the label, k for each record

The labels of several records come in any order: the gradient is that of their mean loss.

Source  Zhu, Liu, Han, "Deep Leakage from Gradients", NeurIPS 2019 (arXiv 1906.08935), algorithm 1.
Code    mit-han-lab/dlg (MIT, facts only): torch L-BFGS, lr 1, 300 steps of up to 20 iterations; a sum of squares; the
        network is a LeNet with sigmoids and weights from U(−0.5, 0.5); pixels in 0..1, not normalised.
Differs a line search, restarts, and all problems at once (lbfgs.py). `softplus` attacks a ReLU network through smooth
        copies of it; the paper's method has kinks to cross there.
Reduces with the labels given, to idlg.py.
Cost    iterations × the double backward pass of each problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar, Literal

import torch
from jaxtyping import Int64
from pydantic import Field
from torch import Tensor

from attacks.alone import alone
from attacks.gradient_findings import findings_of, first, observed, scores_of
from attacks.gradient_matching import Distance, Matching, Observed, Reconstruction, squared, squared_where_sent
from attacks.lbfgs import Search
from attacks.smooth import annealed
from fedsim.audit.types import Finding, Knowledge, Release, Scores, ThreatModel, Truth
from fedsim.audit.view import AdversaryView
from fedsim.config import Section
from fedsim.seeding import Streams


class LBFGSConfig(Section):
    """Settings of an attack by L-BFGS."""

    later: ClassVar[tuple[str, ...]] = ("entries",)
    iterations: int = Field(default=6000, ge=1)
    """Steps of one attempt: the published 300 × 20."""
    restarts: int = Field(default=1, ge=1)
    """Attempts per problem, the best by gradient loss; published: one."""
    tolerance: float = Field(default=1e-6, ge=0)
    """Gradient loss below which a problem is solved."""
    history: int = Field(default=300, ge=1)
    """Pairs that L-BFGS remembers; published: 100."""
    width: int = Field(default=64, ge=1)
    """Problems that run side by side."""
    patience: int = Field(default=200, ge=1)
    """Steps in which the loss must fall by a tenth, or the attempt is given up."""
    softplus: tuple[float, ...] = Field(default=(), strict=False)
    """Sharpness of the smooth copies of a ReLU network, in order; empty: the network itself."""

    entries: Literal["all", "sent"] = "all"
    """`sent`: match only entries that are not zero; adaptive to clients that prune (defenses/gradient_pruning.py)."""

    @property
    def distance(self) -> Distance:
        """D."""
        return squared if self.entries == "all" else squared_where_sent

    def search(self) -> Search:
        """As the minimiser wants them."""
        return Search(self.iterations, self.restarts, self.tolerance, self.history, self.width, self.patience)


class Config(LBFGSConfig):
    """Settings of DLG."""

    name: Literal["dlg"] = "dlg"


class DLG:
    """A curious server that was sent one gradient."""

    Config = Config
    threat = ThreatModel(
        name="curious_server",
        position="server",
        behaviour="passive",
        sees=frozenset({Release.GRADIENT}),
        knows=frozenset({Knowledge.ARCHITECTURE, Knowledge.WEIGHTS}),
        adjacency="replace",
    )

    def __init__(self, config: Config) -> None:
        self.config = config

    def run(self, view: AdversaryView, streams: Streams) -> Scores:
        """`images` (b, s, c, h, w) and `labels` (b, s) of each gradient, `gradient_loss` (b), `iterations` (b)."""
        return scores_of(self.reconstruct(observed(view), None, streams.generator()))

    def evaluate(self, scores: Sequence[Scores], truths: Sequence[Truth]) -> list[Finding]:
        """Identification among held-out records, images found, labels found."""
        return findings_of("dlg", self.threat, *first(scores, truths))

    def reconstruct(
        self, observed: Observed, labels: Int64[Tensor, "b s"] | None, rng: torch.Generator
    ) -> Reconstruction:
        """Images and labels of each target; `labels`, where known, are not searched for."""
        matching = Matching(observed, labels, self.config.distance)
        return matching.reconstruction(annealed(matching, self.config.search(), self.config.softplus, rng))


if __name__ == "__main__":
    alone(__file__)
