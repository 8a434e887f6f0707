"""How large is ε at least, by one run: canaries that may be in, decoded from every noisy sum that a client releases.

    r_j  = ṽ_j − v_rest,j − ½ Σ_i u_ij  =  Σ_i (b_i − ½) u_ij + σΔ z_j            z_j ~ N(0, I)
    b̂    = ½ + (G + 4 σ²Δ² I)⁻¹ Uᵀ r             G = Uᵀ U,  (Uᵀ r)_i = Σ_j ⟨u_ij, r_j⟩

    b_i     canary i is in: Bernoulli(½), independent        u_ij  [clip_C(ψ_j(x_i) − a_j), κ] in the place of its class
    j       releases (networks)                              U     all u_i as columns, over all releases and classes
    v_rest  sum over the records that are no canaries, which the adversary knows

Of b − ½, with covariance I/4, the linear estimate of least mean square from r is ¼ Uᵀ (¼ U Uᵀ + σ²Δ² I)⁻¹ r, and
¼ Uᵀ (¼ U Uᵀ + s I)⁻¹ = (G + 4 s I)⁻¹ Uᵀ: m equations in the place of one for every number that was released. Canaries
of different classes do not meet; those of one share the count's entry κ, so that crafted ones have cosine κ²/(C² + κ²).

The scores of all clients are pooled. The highest tenth is guessed in, the lowest out (one_run_evidence.py): a number of
right guesses that (ε, δ) does not allow, at significance .001, says that mechanism or accountant is wrong. Anything
less is no proof of a guarantee.

Source  Steinke, Nasr, Jagielski, "Privacy Auditing with One (1) Training Run", NeurIPS 2023, arXiv 2305.08846. Joint
        decoding and crafted canaries are choices made here, for sums in the place of training.
Code    none read.
Differs the adversary is handed the other records, which the guarantee allows and a real server does not have.
Reduces one canary, or canaries at right angles: the matched filter ⟨u_i, r⟩, up to a factor of each.
Cost    for each client a forward pass over its records per release, and m³/3 for the m canaries of a class.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from pydantic import Field
from torch import Tensor

from attacks.canary_records import Kind, Look
from attacks.one_run_evidence import Claim, Evidence, weigh
from fedsim.audit.statistics.auc import delong
from fedsim.audit.statistics.one_run import CONTRADICTION
from fedsim.audit.statistics.one_run_f_dp import ASSUMPTION
from fedsim.audit.statistics.proportions import clopper_pearson
from fedsim.audit.types import Finding, Knowledge, Release, Scores, Status, ThreatModel, Truth
from fedsim.config import Section
from fedsim.types import UserError


class Config(Section):
    """Settings of the one-run audit; all are registered with the run."""

    name: Literal["one_run_canaries"] = "one_run_canaries"
    kind: Kind = "crafted"
    """What the canaries are."""
    canaries: int = Field(default=200, ge=10)
    """m of each client."""
    guesses: float = Field(default=0.1, gt=0, le=0.5)
    """Share of the canaries that is guessed in, and as many out."""
    significance: float = Field(default=CONTRADICTION, gt=0, lt=0.05)
    """Of the one test that may contradict the accountant."""


def coins(count: int, rng: torch.Generator) -> Bool[Tensor, "m"]:
    """b: which canaries are in."""
    return torch.rand(count, generator=rng, dtype=torch.float64) < 0.5


def gram(rows: Sequence[Float64[Tensor, "m e"]]) -> Float64[Tensor, "m m"]:
    """G of canaries of one class, from their rows in every release."""
    return torch.stack([one @ one.T for one in rows]).sum(0)


def largest_cosine(rows: Sequence[Float64[Tensor, "m e"]], labels: Int64[Tensor, "m"]) -> float:
    """Between two canaries of one client and class, over all releases together, in absolute value."""
    largest = 0.0
    for mine in members(labels):
        products = gram([one[mine] for one in rows])
        norms = products.diagonal().clamp(min=torch.finfo(torch.float64).tiny).sqrt()
        cosines = (products / norms.unsqueeze(0) / norms.unsqueeze(1)).fill_diagonal_(0)
        largest = max(largest, float(cosines.abs().max()))
    return largest


def decoded(looks: Sequence[Look], labels: Int64[Tensor, "m"], deviation: float) -> Float64[Tensor, "m"]:
    """b̂ of one client's canaries from all its releases, class by class; `deviation` is σΔ, as claimed."""
    if not looks or not deviation > 0:
        raise UserError(f"decoding: got {len(looks)} releases, deviation {deviation}; valid: at least one, above 0")
    found = torch.full((len(labels),), 0.5, dtype=torch.float64)
    for mine in members(labels):
        rows, label = [one.rows[mine] for one in looks], int(labels[mine[0]])
        system, seen = gram(rows), torch.zeros(len(mine), dtype=torch.float64)
        for one, own in zip(looks, rows, strict=True):
            seen += own @ (one.values[label] - one.rest[label] - own.sum(0) / 2)
        system.diagonal().add_(4 * deviation**2)
        found[mine] += torch.linalg.solve(system, seen)
    return found


def members(labels: Int64[Tensor, "m"]) -> list[Int64[Tensor, "_own"]]:
    """Places of the canaries of every class that has some."""
    return [torch.nonzero(labels == label).flatten() for label in labels.unique()]


class OneRunCanaries:
    """The audit of one claimed (ε, δ); `evaluate` reads stored scores of canaries and whether each was in."""

    Config = Config

    def __init__(self, config: Config) -> None:
        self.config = config

    @property
    def threat(self) -> ThreatModel:
        """Who knows every record but the canaries, and sees every noisy sum."""
        knows = (Knowledge.ARCHITECTURE, Knowledge.WEIGHTS, Knowledge.HYPERPARAMETERS, Knowledge.CANDIDATES)
        return ThreatModel(
            "worst_case_observer", "server", "passive", frozenset({Release.TRANSCRIPT}), frozenset(knows)
        )

    def evaluate(self, scores: Sequence[Scores], truths: Sequence[Truth]) -> list[Finding]:
        """The registered test of the claim, and an AUC that describes the scores.

        `scores`: `score` (m), pooled over clients, with `epsilon` () and `delta` () of the worst client's claim.
        `truths`: `included` (m). Several targets are pooled: their coins are independent, and the claim is of each.
        """
        values = np.concatenate([np.asarray(one["score"], np.float64).ravel() for one in scores])
        included = np.concatenate([np.asarray(one["included"]).astype(bool).ravel() for one in truths])
        claim = Claim(
            max(float(np.asarray(one["epsilon"])) for one in scores),
            max(float(np.asarray(one["delta"])) for one in scores),
        )
        evidence = weigh(values, included, claim, self.config.guesses, self.config.significance)
        return [self._tested(evidence), self._described(values, included)]

    def _tested(self, evidence: Evidence) -> Finding:
        """Its status stands: .001 is registered for this test alone, and Holm's family of 5 % does not hold it."""
        made, right, m = evidence.guesses.made, evidence.guesses.right, evidence.guesses.canaries
        status, note = verdict(evidence)
        return Finding(
            id=f"one_run_canaries.{self.config.kind}.transcript.right_guesses", attack="one_run_canaries",
            threat=self.threat.name, release=Release.TRANSCRIPT, metric="right_guesses",
            estimate=clopper_pearson(right, made), null=float(1 / (1 + np.exp(-evidence.claim.epsilon))),
            p=evidence.p, minimum_detectable=evidence.share_detectable, confirmatory=True, status=status, note=note,
            details=facts(evidence) | {"kind": self.config.kind, "canaries": m, "guesses": made, "right": right},
        )  # fmt: skip

    def _described(self, scores: np.ndarray, included: np.ndarray) -> Finding:
        return Finding(
            id=f"one_run_canaries.{self.config.kind}.transcript.auc", attack="one_run_canaries",
            threat=self.threat.name, release=Release.TRANSCRIPT, metric="auc",
            estimate=delong(scores[included], scores[~included]), null=0.5,
            note="of canaries that are told from one release; the interval takes them as independent",
        )  # fmt: skip


def facts(evidence: Evidence) -> dict[str, Any]:
    """Plain values of a card."""
    kept = asdict(evidence)
    claim, _ = kept.pop("claim"), kept.pop("guesses")
    named = {"epsilon_claimed": claim["epsilon"], "delta": claim["delta"], "contradicted": evidence.contradicted}
    return named | {"gate": evidence.seen, "gaussian": ASSUMPTION} | kept


def verdict(evidence: Evidence) -> tuple[Status, str]:
    """Status of the registered test, and why."""
    claim = f"(ε = {evidence.claim.epsilon:.3g}, δ = {evidence.claim.delta:g})"
    bound = f"ε is at least {evidence.epsilon_lower:.2f} at 95 %; {evidence.epsilon_max:.2f} is the most that this " \
            "number of guesses can show"  # fmt: skip
    if evidence.contradicted:
        return Status.LEAK, f"{claim} is contradicted: mechanism or accountant is wrong; {bound}"
    if not evidence.seen:
        return Status.INCONCLUSIVE, (f"the canaries were badly seen: under half of {evidence.toy_lower:.2f}, the mean "
                                     f"bound where nothing stands in the way; {bound}")  # fmt: skip
    if evidence.epsilon_detectable is None:
        return Status.INCONCLUSIVE, (
            f"{claim} cannot be contradicted: with every guess right the largest claim that can be is "
            f"{evidence.epsilon_refutable:.2f}; guess a larger share of the canaries; {bound}"
        )
    return Status.NOT_DETECTED, f"consistent with {claim}, which proves nothing; {bound}"
