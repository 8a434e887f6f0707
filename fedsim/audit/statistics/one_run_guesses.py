"""From canary scores to guesses, and from several ways of guessing to one bound that pays for the choice.

    fixed       the k₊ highest scores are guessed in, the k₋ lowest out, the rest not at all; k₊, k₋ set beforehand
    grid        the best of several k₊ = k₋ = k, each at significance α / (their number)
    frontier    guessed in: all scores ≥ t; k₋ = 0; the best of all t on the Pareto frontier, each at α / (their number)

The Pareto frontier holds the thresholds whose point (non-members, members guessed in) is a vertex of the upper concave
hull of all such points, its two ends included.

Source  Steinke, Nasr, Jagielski, arXiv 2305.08846, Algorithm 1 (fixed).
Code    google-deepmind/jax_privacy `auditing.py` (Apache-2.0), read for the frontier's convention.
Differs the number of thresholds on the frontier is read off scores and memberships, so the correction is no proof: the
        frontier stands beside published numbers, and a claim is contradicted by fixed guesses only. Tied scores are
        ordered by chance, never by how the canaries are stored.
Cost    a sort; for the frontier one evaluation of p per threshold.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64

from fedsim.audit.statistics.inputs import check_probability, check_scores
from fedsim.audit.statistics.one_run import Guesses, largest_refuted, p_value
from fedsim.types import UserError

Refuted = Callable[[Guesses, float, float], bool]
"""Whether guesses refute a size (of ε, or of μ) at a significance."""

GRID = (20, 10, 5, 3)
"""m/k of the grid."""


@dataclass(frozen=True)
class Bound:
    """A lower bound that paid for the choice among several tests."""

    value: float
    """ε_LB, or μ_LB."""
    guesses: Guesses | None
    """Those it comes from; None where nothing is refuted."""
    tests: int
    """Among so many."""
    significance: float
    """Of each of them."""


def fixed_guesses(
    scores: Float[np.ndarray, "m"],
    included: Bool[np.ndarray, "m"],
    positive: int,
    negative: int,
    rng: np.random.Generator,
) -> Guesses:
    """k₊ = `positive`, k₋ = `negative`; `included` says which canaries were in. Chance decides among equal scores."""
    _check(scores, included)
    m = len(scores)
    if min(positive, negative) < 0 or not 1 <= positive + negative <= m:
        raise UserError(f"guesses: got {positive} in and {negative} out on {m} canaries; valid: at least one, at most "
                        "one per canary")  # fmt: skip
    order = np.lexsort((rng.random(m), scores))  # rising
    right = int(included[order[m - positive :]].sum()) + int((~included[order[:negative]]).sum())
    return Guesses(m, positive + negative, right)


def grid_bound(
    scores: Float[np.ndarray, "m"],
    included: Bool[np.ndarray, "m"],
    delta: float,
    rng: np.random.Generator,
    significance: float = 0.05,
    grid: Sequence[int] = GRID,
) -> Bound:
    """The best ε_LB of k = m/g for g in `grid` (rounded down, at least 1)."""
    check_probability("significance", significance)
    sizes = [max(1, len(scores) // part) for part in grid]
    guesses = [fixed_guesses(scores, included, size, size, rng) for size in sizes]
    return best_bound(guesses, len(guesses), _claims(delta), significance)


def frontier_bound(
    scores: Float[np.ndarray, "m"], included: Bool[np.ndarray, "m"], delta: float, significance: float = 0.05
) -> Bound:
    """The best ε_LB over the thresholds of the Pareto frontier."""
    check_probability("significance", significance)
    guesses = frontier_guesses(scores, included)
    return best_bound(guesses, len(guesses), _claims(delta), significance)


def frontier_guesses(scores: Float[np.ndarray, "m"], included: Bool[np.ndarray, "m"]) -> list[Guesses]:
    """One per threshold of the frontier, from 'none is in' to 'all are in'."""
    _check(scores, included)
    thresholds = np.unique(scores)[::-1]
    rising_in, rising_out = np.sort(scores[included]), np.sort(scores[~included])
    members = np.append(0, len(rising_in) - np.searchsorted(rising_in, thresholds, "left"))
    others = np.append(0, len(rising_out) - np.searchsorted(rising_out, thresholds, "left"))
    corners = upper_hull(others, members)
    return [Guesses(len(scores), int(members[at] + others[at]), int(members[at])) for at in corners]


def upper_hull(x: Int64[np.ndarray, "n"], y: Int64[np.ndarray, "n"]) -> list[int]:
    """Places of the vertices of the upper concave hull; x and y do not fall, and no point is there twice."""
    xs, ys = x.tolist(), y.tolist()
    hull: list[int] = []
    for c in range(len(xs)):
        while len(hull) > 1:
            a, b = hull[-2:]
            if (ys[b] - ys[a]) * (xs[c] - xs[b]) > (ys[c] - ys[b]) * (xs[b] - xs[a]):  # b lies above the line a c
                break
            hull.pop()
        hull.append(c)
    return hull


def best_bound(candidates: Sequence[Guesses], tests: int, refuted: Refuted, significance: float) -> Bound:
    """The largest refuted size over all candidates, each at significance/tests."""
    each = significance / tests
    best, by = 0.0, None
    # the most precise first: the others then fail at its size with one evaluation
    for guesses in sorted(candidates, key=lambda one: one.right / max(one.made, 1), reverse=True):
        if refuted(guesses, best, each):
            best, by = largest_refuted(lambda size, g=guesses: refuted(g, size, each), best), guesses
    return Bound(best, by, tests, each)


def _claims(delta: float) -> Refuted:
    return lambda guesses, epsilon, level: p_value(guesses, epsilon, delta) <= level


def _check(scores: np.ndarray, included: np.ndarray) -> None:
    check_scores("scores", scores)
    if len(included) != len(scores):
        raise UserError(f"included: got {len(included)} for {len(scores)} canaries; valid: one for each")
