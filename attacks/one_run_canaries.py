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

import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float64, Int64
from pydantic import Field
from torch import Tensor

from attacks.alone import alone
from attacks.canary_bounds import Kind, exploratory
from attacks.canary_ladder import OBSERVER, lower_scores, threats, transcript_scores
from attacks.one_run_evidence import Claim, Evidence, claim_of, planned, weigh
from fedsim.audit.statistics.auc import delong
from fedsim.audit.statistics.one_run import CONTRADICTION
from fedsim.audit.statistics.one_run_f_dp import ASSUMPTION
from fedsim.audit.statistics.proportions import clopper_pearson
from fedsim.audit.types import Finding, Release, Scores, Status, ThreatModel, Truth
from fedsim.audit.view import AdversaryView
from fedsim.config import Section
from fedsim.privacy.observed import Look
from fedsim.seeding import Streams
from fedsim.types import UserError


class Config(Section):
    """Settings of the one-run audit; all are registered with the run."""

    name: Literal["one_run_canaries"] = "one_run_canaries"
    kind: Kind = "crafted"
    """Of which planted records the registered test is; what is planted says `run.audit.planted`."""
    guesses: float = Field(default=0.1, gt=0, le=0.5)
    """Share of the canaries that is guessed in, and as many out."""
    significance: float = Field(default=CONTRADICTION, gt=0, le=CONTRADICTION)
    """Of the one test that may contradict the accountant."""
    random_networks: int = Field(default=32, ge=1)
    """Networks behind the rung `set`."""
    delta: float = Field(default=1e-5, gt=0, lt=1)
    """δ of the bounds on ε where the run claims none."""


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
        """Who knows every record but the canaries' coins, and sees every noisy sum."""
        return OBSERVER

    @property
    def threats(self) -> tuple[ThreatModel, ...]:
        """Of all rungs."""
        return tuple(threats().values())

    def check(self, run: Any) -> None:
        """Refuse a run in which too few records of the registered kind are planted."""
        number, least = run.audit.planted.counts.get(self.config.kind, 0), math.ceil(1 / self.config.guesses - 1e-9)
        if number < least:
            raise UserError(
                f"run.audit.planted.{self.config.kind}: got {number}; valid for one_run_canaries with guesses "
                f"{self.config.guesses:g} of kind {self.config.kind}: at least {least}"
            )

    def plan(self, run: Any) -> list[str]:
        """What the registered test could say of the run's claim."""
        number = run.audit.planted.counts[self.config.kind]
        return planned(claim_of(run), number, self.config.guesses, self.config.significance, self.config.delta)

    def run(self, view: AdversaryView, streams: Streams) -> Scores:
        """`score` (m), b̂ decoded from every noisy sum, with `epsilon` () and `delta` () of the claim: without privacy
        there is none of them. `rung.set`, `rung.model` (m); `kind` (m)."""
        held = view.released.canaries()
        found: dict[str, np.ndarray] = {"kind": held.kinds}
        if held.deviation is not None:
            found |= {"score": transcript_scores(view, held, decoded), "epsilon": np.array(held.epsilon)}
            found["delta"] = np.array(held.delta)
        return found | lower_scores(view, held, self.config.random_networks, streams)

    def evaluate(self, scores: Sequence[Scores], truths: Sequence[Truth]) -> list[Finding]:
        """The registered test of the claim, an AUC that describes its scores, and bounds of every other kind and rung.

        `scores`: as `run` gives them, pooled over clients; without `kind` all canaries are of the registered one, and
        without rungs they were not looked at. `truths`: `included` (m). Several targets are pooled: their coins are
        independent, and the claim is of each.
        """
        included = np.concatenate([np.asarray(one["included"]).astype(bool).ravel() for one in truths])
        kinds = _pooled(scores, "kind") if "kind" in scores[0] else np.full(len(included), self.config.kind)
        own, claim = kinds == self.config.kind, None
        if "score" in scores[0]:
            claim = Claim(
                max(float(np.asarray(one["epsilon"])) for one in scores),
                max(float(np.asarray(one["delta"])) for one in scores),
            )
            values = _pooled(scores, "score")[own]
            evidence = weigh(values, included[own], claim, self.config.guesses, self.config.significance)
            found = [self._tested(evidence), self._described(values, included[own])]
        else:
            found = [self._no_claim()]
        rungs = {"transcript": "score", "set": "rung.set", "model": "rung.model"}
        looked = {rung: _pooled(scores, name) for rung, name in rungs.items() if name in scores[0]}
        return found + exploratory(looked, kinds, included, self.config.kind, claim.delta if claim else
                                   self.config.delta, self.config.guesses)  # fmt: skip

    def _no_claim(self) -> Finding:
        return Finding(
            id=f"one_run_canaries.{self.config.kind}.transcript.right_guesses", attack="one_run_canaries",
            threat=self.threat.name, release=Release.TRANSCRIPT, metric="right_guesses", estimate=None, null=None,
            confirmatory=True, status=Status.NOT_RUN, note="the run has no noisy sums and claims no ε: no formal ε",
        )  # fmt: skip

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


def _pooled(scores: Sequence[Scores], name: str) -> np.ndarray:
    return np.concatenate([np.asarray(one[name]).ravel() for one in scores])


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


if __name__ == "__main__":
    alone(__file__)
