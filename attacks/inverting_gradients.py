"""Inverting Gradients: the angle between gradients and a smooth image, by signed Adam in the pixel box.

    min_{x̂ ∈ [0,1]}  1 − ⟨∇_θ ℓ(x̂, y), g*⟩ / ‖∇_θ ℓ(x̂, y)‖‖g*‖ + λ TV(x̂)

    g*  the gradient that was seen      y  labels, known or recovered before      TV  mean total variation

One cosine over all weights jointly. The sign of the gradient goes into Adam, so that every pixel moves by up to η a
step; without the box pixels would drift. Of several restarts the one of the smallest gradient loss is kept, without
the prior.

Source  Geiping, Bauermeister, Dröge, Moeller, "Inverting Gradients: How easy is it to break privacy in federated
        learning?", NeurIPS 2020 (arXiv 2003.14053).
Code    JonasGeiping/invertinggradients (MIT, facts only): Adam, η 0.1, tenths at 3/8, 5/8, 7/8, 4800 steps, λ 0.1,
        N(0, 1) start, boxed; JonasGeiping/breaching takes 24,000 steps and λ 0.2.
Differs all problems at once; labels that are not known are recovered by `labels.py`, never searched for.
Reduces to one step of fedavg_inversion.py.
Cost    iterations × the double backward pass of each problem.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Int64
from pydantic import Field
from torch import Tensor

from attacks.adam import Descent, minimise
from attacks.alone import alone
from attacks.dlg import DLG
from attacks.gradient_findings import findings_of, first, observed, scores_of
from attacks.gradient_matching import Matching, Observed, Reconstruction, cosine
from attacks.labels import batch_labels, sign_rule
from fedsim.audit.types import Finding, Scores, Truth
from fedsim.audit.view import AdversaryView
from fedsim.config import Section
from fedsim.seeding import Streams


class AdamConfig(Section):
    """Settings of an attack by signed Adam."""

    iterations: int = Field(default=4800, ge=1)
    """Steps of one attempt."""
    restarts: int = Field(default=1, ge=1)
    """Attempts per problem, the best by gradient loss."""
    learning_rate: float = Field(default=0.1, gt=0)
    """η, in units of the network input."""
    total_variation: float = Field(default=0.1, ge=0)
    """λ."""
    signed: bool = True
    """Whether Adam is given the sign of the gradient."""
    boxed: bool = True
    """Whether pixels are kept in 0..1."""
    width: int = Field(default=64, ge=1)
    """Problems that run side by side."""

    def descend(self, matching: Matching, rng: torch.Generator) -> Reconstruction:
        """The best of all attempts."""
        descent = Descent(self.iterations, self.learning_rate, self.signed, self.restarts, self.width)
        start = matching.start(self.restarts, rng)
        project = matching.project if self.boxed else None
        found = minimise(matching, matching.score, matching.observed.problems, start, descent, project)
        return matching.reconstruction(found)


class Config(AdamConfig):
    """Settings of Inverting Gradients."""

    name: Literal["inverting_gradients"] = "inverting_gradients"


class InvertingGradients:
    """A curious server that was sent one gradient."""

    Config = Config
    threat = DLG.threat

    def __init__(self, config: Config) -> None:
        self.config = config

    def run(self, view: AdversaryView, streams: Streams) -> Scores:
        """`images` (b, s, c, h, w) and `labels` (b, s) of each gradient, `gradient_loss` (b), `iterations` (b)."""
        return scores_of(self.reconstruct(observed(view), None, streams.generator()))

    def evaluate(self, scores: Sequence[Scores], truths: Sequence[Truth]) -> list[Finding]:
        """Identification among held-out records, images found, labels found."""
        return findings_of("inverting_gradients", self.threat, *first(scores, truths))

    def reconstruct(
        self, observed: Observed, labels: Int64[Tensor, "b s"] | None, rng: torch.Generator
    ) -> Reconstruction:
        """Images of each target; labels that are not known are read off the last layer."""
        if labels is None:
            labels = recovered(observed, rng)
        matching = Matching(observed, labels, cosine, variation=self.config.total_variation)
        return self.config.descend(matching, rng)


def recovered(observed: Observed, rng: torch.Generator) -> Int64[Tensor, "b s"]:
    """Labels of one record by the sign rule, where there are three classes; else by the counts of a batch."""
    if observed.records == 1 and observed.num_classes > 2:
        return sign_rule(observed.targets["head.weight"])[:, None]
    return batch_labels(observed, rng)


if __name__ == "__main__":
    alone(__file__)
