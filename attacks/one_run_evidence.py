"""What the scores of a one-run audit say of a claimed (ε, δ), and what an audit of this size could have said.

    registered    k₊ = k₋ = share · m guesses, fixed beforehand; ONE test of the claim, at significance .001
    ε_LB          the same guesses at 5 %
    ε_max         ε_LB if every guess were right; and if there were one on every canary
    toy           ε_LB of the same guesses where each canary is seen through its own noise, μ as claimed (one_run_power)
    detectable    smallest ε of a toy that contradicts the claim in four of five audits

What can be contradicted at all: with every guess right the part of δ in p(ε) is about δ (1 + e^ε)/(2 share), whatever
m. At .001 and δ = 1e-5 no claim above 2.5 can be with a share of .1, 3.4 with .25, 4.2 with .5 (`epsilon_refutable`).

The gate: an ε_LB under half of the toy's mean says that the canaries were badly seen, not that little leaks.

Source  Steinke, Nasr, Jagielski, NeurIPS 2023, arXiv 2305.08846, Algorithm 1. The gate is a choice
        made here.
Code    none read beside that of fedsim/audit/statistics/one_run.py.
Cost    `RUNS` sorts of m scores, and twenty times that for `detectable`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from fedsim.audit.statistics.one_run import CONTRADICTION, Guesses, largest_bound, lower_bound, p_value
from fedsim.audit.statistics.one_run_f_dp import gaussian_bound
from fedsim.audit.statistics.one_run_guesses import fixed_guesses
from fedsim.audit.statistics.one_run_power import audit_toy
from fedsim.build import Parts
from fedsim.privacy.accountant import epsilon_of, mu_of
from fedsim.seeding import numpy_stream
from fedsim.types import UserError

RUNS = 100
"""Audits of the toy."""
GATE = 0.5
"""Share of the toy's mean bound that a real release must reach."""
POWER = 0.8
HALVINGS = 10
"""Of the bracket around the detectable μ, whose ends are a factor of two apart."""


@dataclass(frozen=True)
class Claim:
    """(ε, δ) with respect to adding or removing a record, for all records that the canaries stand for."""

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        if not (self.epsilon > 0 and 0 < self.delta < 1):
            raise UserError(f"claim: got epsilon {self.epsilon}, delta {self.delta}; valid: epsilon above 0, delta "
                            "above 0 and below 1")  # fmt: skip


@dataclass(frozen=True)
class Evidence:
    """Of one audit."""

    claim: Claim
    guesses: Guesses
    significance: float
    """Of the registered test."""
    p: float
    """p(ε) of the claim."""
    epsilon_lower: float
    """ε_LB at 5 %."""
    epsilon_lower_gaussian: float
    """At 5 %, from a bound on μ that assumes Gaussian noise; contradicts nothing."""
    epsilon_max: float
    """ε_LB at 5 % with every guess right."""
    epsilon_max_all: float
    """With a guess on every canary, and all right: what no way of guessing goes beyond."""
    epsilon_refutable: float
    """The largest claim that the registered test contradicts if every guess is right."""
    toy_lower: float
    """Mean ε_LB of the toy."""
    toy_below_gate: float
    """Share of the toy's audits that the gate would call badly seen."""
    epsilon_detectable: float | None
    """None: no mechanism is ever found to contradict the claim with so many canaries."""
    share_detectable: float | None
    """Mean share of right guesses there."""

    @property
    def contradicted(self) -> bool:
        """By the registered test: mechanism or accountant is wrong."""
        return self.p <= self.significance

    @property
    def seen(self) -> bool:
        """The gate."""
        return self.epsilon_lower >= GATE * self.toy_lower


def weigh(
    scores: Float[np.ndarray, "m"],
    included: Bool[np.ndarray, "m"],
    claim: Claim,
    share: float = 0.1,
    significance: float = CONTRADICTION,
) -> Evidence:
    """Of scores pooled over clients (and over audits of one claim): large for canaries that are in.

    The clients' joint release is (max ε, max δ)-DP for every record, so all canaries count as one audit.
    """
    m = len(scores)
    if not 0 < share <= 0.5:
        raise UserError(f"guesses: got a share of {share}; valid: above 0, at most 0.5, guessed in and out each")
    k = int(share * m + 1e-9)
    if k < 1:
        raise UserError(f"canaries: got {m}, of which a share of {share} is none; valid: at least {round(1 / share)}")
    guesses = fixed_guesses(scores, included, k, k, numpy_stream(0, "one run", "ties"))
    toy = audit_toy(
        m, 1 / mu_of(claim.epsilon, claim.delta), k, claim.delta, numpy_stream(0, "one run", "toy"), runs=RUNS
    )
    mu, all_right = gaussian_bound(guesses), Guesses(m, 2 * k, 2 * k)
    epsilon, share_right = detectable(claim, m, k, significance) or (None, None)
    return Evidence(
        claim=claim, guesses=guesses, significance=significance,
        p=p_value(guesses, claim.epsilon, claim.delta),
        epsilon_lower=lower_bound(guesses, claim.delta),
        epsilon_lower_gaussian=epsilon_of(mu, claim.delta) if mu > 0 else 0.0,
        epsilon_max=lower_bound(all_right, claim.delta),
        epsilon_max_all=largest_bound(m, claim.delta),
        epsilon_refutable=lower_bound(all_right, claim.delta, significance),
        toy_lower=toy.mean,
        toy_below_gate=float((toy.bounds < GATE * toy.mean).mean()),
        epsilon_detectable=epsilon,
        share_detectable=share_right,
    )  # fmt: skip


def critical(claim: Claim, canaries: int, made: int, significance: float) -> int | None:
    """The fewest right guesses that contradict the claim; None: not even all of them do."""
    low, high = 0, made + 1  # 0 does not, made + 1 stands for never
    while high - low > 1:
        middle = (low + high) // 2
        refuted = p_value(Guesses(canaries, made, middle), claim.epsilon, claim.delta) <= significance
        low, high = (low, middle) if refuted else (middle, high)
    return high if high <= made else None


def detectable(claim: Claim, canaries: int, k: int, significance: float) -> tuple[float, float] | None:
    """Smallest true ε at the claim's δ that is found by `POWER` of the toy's audits, and the share of right guesses."""
    least = critical(claim, canaries, 2 * k, significance)
    if least is None:
        return None

    def rights(mu: float) -> np.ndarray:
        rng = numpy_stream(0, "one run", "detectable")  # the same draws for every μ
        one = [_right(canaries, mu, k, rng) for _ in range(RUNS)]
        return np.array(one)

    low = high = mu_of(claim.epsilon, claim.delta)
    while (rights(high) >= least).mean() < POWER:
        low, high = high, 2 * high
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        low, high = (low, middle) if (rights(middle) >= least).mean() >= POWER else (middle, high)
    return epsilon_of(high, claim.delta), float(rights(high).mean()) / (2 * k)


def _right(canaries: int, mu: float, k: int, rng: np.random.Generator) -> int:
    included = rng.random(canaries) < 0.5
    return fixed_guesses(included + rng.standard_normal(canaries) / mu, included, k, k, rng).right


def claim_of(run: Any) -> Claim | None:
    """What the accountant of a run (`schema.FederatedRun`) will claim if all goes as planned; None: nothing."""
    agreed = Parts(run).privacy
    return Claim(agreed.planned(), agreed.config.delta) if agreed is not None else None


def planned(claim: Claim | None, canaries: int, share: float, significance: float, delta: float) -> list[str]:
    """What an audit with so many canaries could say, in lines; `delta` is that of bounds where nothing is claimed."""
    k = int(share * canaries + 1e-9)
    at, all_right = claim.delta if claim is not None else delta, Guesses(canaries, 2 * k, 2 * k)
    lines = [
        f"{canaries} planted records, {k} guessed in and {k} out: ε shown at most {lower_bound(all_right, at):.2f} at "
        f"95 %, {largest_bound(canaries, at):.2f} with a guess on every one"
    ]
    if claim is None:
        return [*lines, "the run claims no ε: there is nothing to contradict"]
    toy = audit_toy(canaries, 1 / mu_of(claim.epsilon, at), k, at, numpy_stream(0, "one run", "toy"), runs=RUNS)
    lines.append(
        f"claimed ε = {claim.epsilon:.3g}, δ = {at:g}: a bound of {toy.mean:.2f} is to be expected if it holds"
    )
    found = detectable(claim, canaries, k, significance)
    refutable = lower_bound(all_right, at, significance)
    return [*lines, (
        f"it is contradicted at {significance:g} in four of five audits if the true ε is {found[0]:.2f} or more"
        if found is not None else f"it cannot be contradicted at {significance:g}: with every guess right the largest "
        f"claim that can be is {refutable:.2f}; guess a larger share, or plant more"
    )]  # fmt: skip
