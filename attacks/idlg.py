"""Improved Deep Leakage: the label is read off the last layer, then the image alone is searched for.

    ∇W_i = (p_i − 1[i = y]) a        so  ∇W_i · ∇W_y ≤ 0 for all i ≠ y,  and Σ_d ∇W_{y,d} < 0 ≤ Σ_d ∇W_{i,d} where a ≥ 0

    ∇W_i  row i of the last layer's gradient, (d,)      a  input of that layer      p  softmax output

The sign rule holds for every a ≠ 0 and needs three classes. The row sums need features that are not negative (ReLU,
sigmoid), and two classes suffice. Both need one record, its own hard label, and plain cross-entropy.

Source  Zhao, Mopuri, Bilen, "iDLG: Improved Deep Leakage from Gradients", 2020 (arXiv 2001.02610).
Code    PatrickZH/Improved-Deep-Leakage-from-Gradients (no licence; facts only): the row sums; stops at a loss below
        1e-6.
Differs as dlg.py.
Reduces to dlg.py with the label given.
Cost    as dlg.py; the label costs nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Int64
from torch import Tensor

from attacks.alone import alone
from attacks.dlg import DLG, LBFGSConfig
from attacks.gradient_findings import findings_of, first, observed, scores_of
from attacks.gradient_matching import Matching, Observed, Reconstruction
from attacks.labels import row_sum_rule, sign_rule
from attacks.smooth import annealed
from fedsim.audit.types import Finding, Scores, Truth
from fedsim.audit.view import AdversaryView
from fedsim.seeding import Streams
from fedsim.types import UserError


class Config(LBFGSConfig):
    """Settings of iDLG."""

    name: Literal["idlg"] = "idlg"
    rule: Literal["sign", "row_sum"] = "sign"
    """How the label is read: the paper's rule, or the one of the published code."""


class IDLG:
    """A curious server that was sent the gradient of one record."""

    Config = Config
    threat = DLG.threat

    def __init__(self, config: Config) -> None:
        self.config = config

    def run(self, view: AdversaryView, streams: Streams) -> Scores:
        """`images` (b, s, c, h, w) and `labels` (b, s) of each gradient, `gradient_loss` (b), `iterations` (b)."""
        return scores_of(self.reconstruct(observed(view), None, streams.generator()))

    def evaluate(self, scores: Sequence[Scores], truths: Sequence[Truth]) -> list[Finding]:
        """Identification among held-out records, images found, labels found."""
        return findings_of("idlg", self.threat, *first(scores, truths))

    def labels(self, observed: Observed) -> Int64[Tensor, "b 1"]:
        """The label of each target; raises `UserError` where a target is of several records."""
        if observed.records != 1:
            raise UserError(f"idlg: got gradients of {observed.records} records; valid: 1; choose another attack")
        rows = observed.targets["head.weight"]
        return (sign_rule(rows) if self.config.rule == "sign" else row_sum_rule(rows))[:, None]

    def reconstruct(
        self, observed: Observed, labels: Int64[Tensor, "b 1"] | None, rng: torch.Generator
    ) -> Reconstruction:
        """The image and label of each target; `labels`, where known, are not read off."""
        labels = self.labels(observed) if labels is None else labels
        matching = Matching(observed, labels, self.config.distance)
        return matching.reconstruction(annealed(matching, self.config.search(), self.config.softplus, rng))


if __name__ == "__main__":
    alone(__file__)
