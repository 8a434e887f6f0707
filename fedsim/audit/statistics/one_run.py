"""Lower bounds on ε from one run: m canaries, each in it with probability ½; r guesses which are, v of them right.

    q = e^ε / (1 + e^ε)
    p(ε) = P[Bin(r, q) ≥ v] + 2 m δ · max_{1 ≤ i ≤ v} P[v > Bin(r, q) ≥ v − i] / i          (at most 1)
    ε_LB = sup { ε: p(ε) ≤ α }                                                              α: significance

Under (ε, δ)-differential privacy with respect to adding or removing one canary, v or more right guesses come with
probability at most p(ε): if p(ε) ≤ α the claim is contradicted at level α. That holds for any way of guessing from the
release, if the number of guesses was fixed beforehand. ε_LB says nothing of how large ε may be.

Source  Steinke, Nasr, Jagielski, "Privacy Auditing with One (1) Training Run", NeurIPS 2023, arXiv 2305.08846.
Code    google-deepmind/jax_privacy `auditing.py` (Apache-2.0), read for its conventions; its test constants are met.
Differs for 2mδ ≤ 1 p rises in ε and ε_LB is the supremum. Above that it need not; what is returned is still an ε with
        p(ε) ≤ α, so a valid bound, but perhaps not the largest.
Cost    4 log v incomplete beta functions for each ε that is looked at, about 35 of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from scipy.special import betainc, expit

from fedsim.audit.statistics.inputs import check_probability
from fedsim.types import UserError

PRECISION = 1e-8
"""To which a bound is found, from below."""

CONTRADICTION = 0.001
"""Significance of the one test, registered before the run, that may call an accountant wrong."""


@dataclass(frozen=True)
class Guesses:
    """How the guessing went."""

    canaries: int
    """m: all canaries, guessed or not."""
    made: int
    """r."""
    right: int
    """v."""

    def __post_init__(self) -> None:
        if not (0 <= self.right <= self.made <= self.canaries and self.canaries >= 1):
            raise UserError(f"guesses: got {self.right} right of {self.made} made on {self.canaries} canaries; "
                            "valid: 0 ≤ right ≤ made ≤ canaries, at least one canary")  # fmt: skip


def p_value(guesses: Guesses, epsilon: float, delta: float) -> float:
    """p(ε) of the claim (ε, δ)."""
    if not (epsilon >= 0 and 0 <= delta < 1):
        raise UserError(f"claim: got epsilon {epsilon}, delta {delta}; valid: epsilon ≥ 0, 0 ≤ delta < 1")
    if guesses.right == 0:
        return 1.0
    q = float(expit(epsilon))
    tail = float(betainc(guesses.right, guesses.made - guesses.right + 1, q))
    if delta == 0:
        return tail
    return min(1.0, tail + 2 * guesses.canaries * delta * _steepest(guesses, q, tail))


def lower_bound(guesses: Guesses, delta: float, significance: float = 0.05) -> float:
    """ε_LB; 0 where not even ε = 0 is contradicted."""
    check_probability("significance", significance)
    return largest_refuted(lambda epsilon: p_value(guesses, epsilon, delta) <= significance)


def contradicts(guesses: Guesses, epsilon: float, delta: float, significance: float = CONTRADICTION) -> bool:
    """Whether the claim (ε, δ) is refuted: mechanism or accountant is wrong, or α happened."""
    check_probability("significance", significance)
    return p_value(guesses, epsilon, delta) <= significance


def largest_bound(canaries: int, delta: float, significance: float = 0.05) -> float:
    """ε_max(m): ε_LB with every canary guessed right, about ln(m/3) at .05. Claims above it cannot be contradicted."""
    return lower_bound(Guesses(canaries, canaries, canaries), delta, significance)


def largest_refuted(refuted: Callable[[float], bool], known: float | None = None) -> float:
    """Where `refuted` ends to hold, from below, to `PRECISION`; `known` is a value for which it holds.

    0 where nothing is known and it does not hold at 0.
    """
    low = 0.0 if known is None else known
    if known is None and not refuted(low):
        return 0.0
    high = max(1.0, 2 * low)
    while refuted(high):
        low, high = high, 2 * high
    while high - low > PRECISION:
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (middle, high) if refuted(middle) else (low, middle)
    return low


def _steepest(guesses: Guesses, q: float, tail: float) -> float:
    """max_i P[v > Bin(r, q) ≥ v − i] / i: the largest mean of the probabilities of v − 1, …, v − i.

    Going down from v these rise to the mode and fall after it. So their mean rises until a term comes that is not above
    it, and never again: the largest is found by bisection. `tail` is P[Bin(r, q) ≥ v].
    """
    v, wrong = guesses.right, guesses.made - guesses.right
    low, high = 1, v
    while low < high:
        i = (low + high) // 2
        mean = (betainc(v - i, wrong + i + 1, q) - tail) / i
        further = betainc(v - i - 1, wrong + i + 2, q) if i + 1 < v else 1.0  # P[Bin ≥ 0]
        low, high = (i + 1, high) if (further - tail) / (i + 1) > mean else (low, i)
    return float((betainc(v - low, wrong + low + 1, q) if low < v else 1.0) - tail) / low
