"""What a one-run audit would find if nothing stood in its way: a Gaussian mechanism and orthogonal canaries.

    s_i = b_i + σ z_i        b_i ~ Bernoulli(½), z_i ~ N(0, 1): each canary seen through noise of its own
    (ε(δ), δ) with μ = 1/σ   exact for this mechanism

A real release mixes the canaries with each other and with the other records, so this is the most to be hoped for with m
canaries. A bound far below the accountant's ε on the toy means that 'consistent' says little on the real release.

Source  the white-box setting of arXiv 2305.08846 (one direction per canary), without the training.
Code    none read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from fedsim.audit.statistics.inputs import check_probability
from fedsim.audit.statistics.one_run import CONTRADICTION, Guesses, contradicts, lower_bound
from fedsim.audit.statistics.one_run_guesses import fixed_guesses
from fedsim.audit.statistics.proportions import clopper_pearson
from fedsim.audit.types import Estimate
from fedsim.types import UserError


@dataclass(frozen=True)
class ToyAudit:
    """Independent audits of the toy."""

    guesses: tuple[Guesses, ...]
    """One per run."""
    bounds: Float64[np.ndarray, "_runs"]
    """ε_LB of each."""

    @property
    def mean(self) -> float:
        """Of ε_LB."""
        return float(self.bounds.mean())

    def contradicted(self, epsilon: float, delta: float, significance: float = CONTRADICTION) -> Estimate:
        """Share of runs that contradict the claim (ε, δ): the power where it is false, false alarms where true."""
        found = sum(contradicts(one, epsilon, delta, significance) for one in self.guesses)
        return clopper_pearson(found, len(self.guesses))


def audit_toy(
    canaries: int,
    sigma: float,
    guessed: int,
    delta: float,
    rng: np.random.Generator,
    significance: float = 0.05,
    runs: int = 100,
) -> ToyAudit:
    """`runs` audits with k₊ = k₋ = `guessed` of m = `canaries`; σ is noise deviation over sensitivity."""
    check_probability("significance", significance)
    if not sigma > 0 or runs < 1 or canaries < 1:
        raise UserError(f"toy: got sigma {sigma}, {runs} runs, {canaries} canaries; valid: above 0, at least 1 each")
    guesses = tuple(_one(canaries, sigma, guessed, rng) for _ in range(runs))
    known = {one: lower_bound(one, delta, significance) for one in set(guesses)}  # v takes few values
    return ToyAudit(guesses, np.array([known[one] for one in guesses]))


def _one(canaries: int, sigma: float, guessed: int, rng: np.random.Generator) -> Guesses:
    included = rng.random(canaries) < 0.5
    scores = included + sigma * rng.standard_normal(canaries)
    return fixed_guesses(scores, included, guessed, guessed, rng)
