"""Shares of n independent trials: exact intervals, Wilson's, and the exact test against chance.

    low   solves  P[Bin(n, low) ≥ s] = α          α = (1 − level)/2 for an interval, 1 − level for one end alone
    high  solves  P[Bin(n, high) ≤ s] = α

    s     successes        P[Bin(n, p) ≥ s] = I_p(s, n − s + 1), so both ends are quantiles of Beta distributions

Source  Clopper, Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial", Biometrika
        1934. Wilson's interval is that of `fedsim.training.intervals`.
Code    none read.
Differs nothing.
"""

from __future__ import annotations

from scipy.special import betainc, betaincinv

from fedsim.audit.statistics.inputs import check_counts, check_level, check_probability
from fedsim.audit.types import Estimate
from fedsim.training.intervals import wilson


def clopper_pearson(successes: int, n: int, level: float = 0.95) -> Estimate:
    """Share and exact interval: it covers in at least `level` of all cases, whatever the share is."""
    _check(successes, n, level)
    tail = (1 - level) / 2
    low, high = _low(successes, n, tail), _high(successes, n, tail)
    return Estimate(successes / n, low, high, level, "Clopper-Pearson", n)


def clopper_pearson_lower(successes: int, n: int, level: float = 0.95) -> Estimate:
    """Share and exact lower end alone: the upper one is 1."""
    _check(successes, n, level)
    return Estimate(successes / n, _low(successes, n, 1 - level), 1.0, level, "Clopper-Pearson, lower end", n)


def clopper_pearson_upper(successes: int, n: int, level: float = 0.95) -> Estimate:
    """Share and exact upper end alone: the lower one is 0."""
    _check(successes, n, level)
    return Estimate(successes / n, 0.0, _high(successes, n, 1 - level), level, "Clopper-Pearson, upper end", n)


def wilson_score(successes: int, n: int, level: float = 0.95) -> Estimate:
    """Share and Wilson's interval: shorter, and right on average over shares only."""
    _check(successes, n, level)
    share = successes / n
    low, high = wilson(successes, n, level)
    return Estimate(share, min(low, share), max(high, share), level, "Wilson", n)  # rounding at 0 and n successes


def binomial_p_value(successes: int, n: int, chance: float) -> float:
    """P[Bin(n, chance) ≥ successes]: one-sided and exact, against 'no more than chance'."""
    check_counts(successes, n)
    check_probability("chance", chance)
    return 1.0 if successes == 0 else float(betainc(successes, n - successes + 1, chance))


def _low(successes: int, n: int, tail: float) -> float:
    return 0.0 if successes == 0 else float(betaincinv(successes, n - successes + 1, tail))


def _high(successes: int, n: int, tail: float) -> float:
    return 1.0 if successes == n else float(betaincinv(successes + 1, n - successes, 1 - tail))


def _check(successes: int, n: int, level: float) -> None:
    check_counts(successes, n)
    check_level(level)
