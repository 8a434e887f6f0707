"""The audit's statistics from their definitions: loops over pairs, sums over binomials, no shortcut."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np


def auc(scores_in: Sequence[float], scores_out: Sequence[float]) -> float:
    """P[in > out] + ½ P[in = out], pair by pair."""
    won = sum(1.0 if x > y else 0.5 if x == y else 0.0 for x in scores_in for y in scores_out)
    return won / (len(scores_in) * len(scores_out))


def auc_variance(scores_in: Sequence[float], scores_out: Sequence[float]) -> float:
    """DeLong's: of the share of non-members below each member, and of members above each non-member."""
    below = [auc([x], scores_out) for x in scores_in]
    above = [auc(scores_in, [y]) for y in scores_out]
    found = 0.0
    for shares in (below, above):
        centre = sum(shares) / len(shares)
        found += sum((one - centre) ** 2 for one in shares) / (len(shares) - 1) / len(shares)
    return found


def tpr_at_fpr(scores_in: Sequence[float], scores_out: Sequence[float], alpha: Fraction) -> tuple[float, float]:
    """(FPR, TPR): every threshold tried; of those with FPR ≤ α the one with the largest FPR, then the largest TPR."""
    found = (-1.0, -1.0)
    for threshold in [-math.inf, *scores_in, *scores_out]:
        false = sum(y > threshold for y in scores_out)
        true = sum(x > threshold for x in scores_in)
        if Fraction(false, len(scores_out)) <= alpha:
            found = max(found, (false / len(scores_out), true / len(scores_in)))
    return found


def binomial_tail(count: int, n: int, p: float) -> float:
    """P[Bin(n, p) ≥ count]."""
    return math.fsum(math.comb(n, x) * p**x * (1 - p) ** (n - x) for x in range(max(count, 0), n + 1))


def one_run_p(canaries: int, made: int, right: int, epsilon: float, delta: float) -> float:
    """p(ε), each term of the maximum by its own sum."""
    q = math.exp(epsilon) / (1 + math.exp(epsilon))
    law = [math.comb(made, x) * q**x * (1 - q) ** (made - x) for x in range(made + 1)]
    means = [math.fsum(law[right - i : right]) / i for i in range(1, right + 1)]
    return min(1.0, math.fsum(law[right:]) + 2 * canaries * delta * max(means, default=0.0))


def refutes_curve(canaries: int, made: int, right: int, inverse: Callable[[float], float], significance: float) -> bool:
    """The recursion with all its r_i and h_i kept."""
    r = {right: significance * right / canaries}
    h = {right: significance * (made - right) / canaries}
    for i in reversed(range(right)):
        h[i] = max(h[i + 1], inverse(r[i + 1]))
        r[i] = min(1.0, r[i + 1] + i / (made - i) * (h[i] - h[i + 1]))
    return r[0] + h[0] > made / canaries


def upper_hull(points: Sequence[tuple[int, int]]) -> list[int]:
    """Places of the points that lie above every line between an earlier and a later one; the ends always."""
    found = []
    for b, (x, y) in enumerate(points):
        under = any(
            (points[c][0] - points[a][0]) * (y - points[a][1]) <= (x - points[a][0]) * (points[c][1] - points[a][1])
            for a in range(b)
            for c in range(b + 1, len(points))
        )
        if not under:
            found.append(b)
    return found


def permutation_p(value: float, null: Sequence[float]) -> float:
    """(1 + #{T_b ≥ T})/(1 + B)."""
    return (1 + sum(one >= value - 1e-9 for one in null)) / (1 + len(null))


def nearest_gap(distances: np.ndarray, members: Sequence[bool]) -> float:
    """Mean over images of: nearest non-member − nearest member."""
    gaps = []
    for row in distances.tolist():
        inside = min(d for d, member in zip(row, members, strict=True) if member)
        outside = min(d for d, member in zip(row, members, strict=True) if not member)
        gaps.append(outside - inside)
    return sum(gaps) / len(gaps)


def holm(p_values: Sequence[float]) -> list[float]:
    """By closed testing: p̃_i is the largest Bonferroni p-value of any set of hypotheses that i belongs to."""
    n = len(p_values)
    found = [0.0] * n
    for size in range(1, n + 1):
        for group in itertools.combinations(range(n), size):
            joint = min(1.0, size * min(p_values[i] for i in group))
            for i in group:
                found[i] = max(found[i], joint)
    return found


def members_tail(count: int, drawn: Sequence[int], members: Sequence[int], pool: Sequence[int]) -> Fraction:
    """P[Σ_c X_c ≥ count], exactly: every split of the members over the classes, by counting draws."""
    total = Fraction(0)
    for split in itertools.product(*(range(s + 1) for s in drawn)):
        if sum(split) >= count:
            ways = [
                Fraction(math.comb(m, x) * math.comb(n - m, s - x), math.comb(n, s))
                for x, s, m, n in zip(split, drawn, members, pool, strict=True)
            ]
            total += math.prod(ways, start=Fraction(1))
    return total


def within(hits: int, runs: int, level: float) -> bool:
    """Whether intervals that covered `hits` of `runs` times may have a coverage of `level`: three standard errors."""
    return abs(hits - runs * level) <= 3 * math.sqrt(runs * level * (1 - level))


def at_least(hits: int, runs: int, level: float) -> bool:
    """As `within`, for intervals that may cover more often."""
    return hits >= runs * level - 3 * math.sqrt(runs * level * (1 - level))
