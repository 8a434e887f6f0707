"""What an audit of a given size would find: smallest effects found with probability `power`, and sizes needed.

All tests are one-sided at `significance`; with k confirmatory tests on a card hand in `significance`/k.

    AUC        A − ½ = z_{1−α} s₀ + z_power s(A)            s₀² = (n + m + 1)/(12 n m)
               n m s²(A) = A(1−A) + (n−1)(A/(2−A) − A²) + (m−1)(2A²/(1+A) − A²)
    advantage  A = (z_{1−α} + z_power) · ½ √(1/n + 1/m)    at most: s of an attack that guesses half
    mean       P[ t_{N−1}(e √N / sd) > t_{N−1, 1−α} ] = power                       N pairs, noncentral t, effect e
    share      P[ Bin(N, p) ≥ c ] = power, c the smallest count with P[ Bin(N, chance) ≥ c ] ≤ α          exact

Source  variance of an AUC: Hanley, McNeil, Radiology 143, 1982.
Code    none read.
Differs the AUC's is an approximation (exponential scores, normal law of the estimate), the advantage's one from above;
        mean and share are exact where pair means are normal and where trials are independent.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import cast

import numpy as np
from jaxtyping import Float64, Int
from scipy.optimize import brentq
from scipy.special import bdtrik, betainc, betaincinv, nctdtr, ndtri, stdtrit

from fedsim.audit.statistics.inputs import check_probability
from fedsim.types import UserError

POWER = 0.8
MOST = 2**22
"""Most records or pairs looked at."""

MOST_TRIALS = 10**5
"""Most trials looked at: every number up to twice as many is tried."""


def detectable_auc(n_in: int, n_out: int, significance: float = 0.05, power: float = POWER) -> float | None:
    """Smallest AUC above ½ that a rank test finds; None: not even a complete separation."""
    _check(significance, power)
    _at_least("n_in and n_out", min(n_in, n_out), 1)
    threshold = float(ndtri(1 - significance)) * math.sqrt((n_in + n_out + 1) / (12 * n_in * n_out))
    if threshold >= 0.5:
        return None
    return _root(
        lambda area: area - 0.5 - threshold - float(ndtri(power)) * math.sqrt(auc_variance(area, n_in, n_out)), 0.5, 1.0
    )


def auc_variance(area: float, n_in: int, n_out: int) -> float:
    """s²(A) of an estimated AUC."""
    spread_in, spread_out = area / (2 - area) - area**2, 2 * area**2 / (1 + area) - area**2
    total = area * (1 - area) + (n_in - 1) * spread_in + (n_out - 1) * spread_out
    return max(0.0, total) / (n_in * n_out)


def required_records(area: float, significance: float = 0.05, power: float = POWER) -> int:
    """Members, and as many non-members, from which on an AUC of `area` is found."""
    _check(significance, power)
    if not 0.5 < area <= 1:
        raise UserError(f"area: got {area}; valid: above 0.5, at most 1")
    return _smallest(lambda n: (detectable_auc(n, n, significance, power) or 2.0) <= area, 1)


def detectable_advantage(n_in: int, n_out: int, significance: float = 0.05, power: float = POWER) -> float | None:
    """An advantage that is found whatever the threshold; None: not even 1."""
    _check(significance, power)
    _at_least("n_in and n_out", min(n_in, n_out), 1)
    found = float(ndtri(1 - significance) + ndtri(power)) * math.sqrt(1 / n_in + 1 / n_out) / 2
    return found if found <= 1 else None


def detectable_mean(deviation: float, pairs: int, significance: float = 0.05, power: float = POWER) -> float:
    """Smallest mean above the null that the t test over pairs finds, in the unit of `deviation` (of pair means)."""
    _check(significance, power)
    _at_least("pairs", pairs, 2)
    if not 0 <= deviation < math.inf:
        raise UserError(f"deviation: got {deviation}; valid: at least 0 and finite")
    freedom, critical = pairs - 1, float(stdtrit(pairs - 1, 1 - significance))
    most = 1.0  # at 0 the power is the significance, which is less
    while nctdtr(freedom, most, critical) > 1 - power:
        most *= 2
    shift = _root(lambda shift: 1 - power - float(nctdtr(freedom, shift, critical)), 0.0, most)
    return shift * deviation / math.sqrt(pairs)


def required_pairs(effect: float, deviation: float, significance: float = 0.05, power: float = POWER) -> int:
    """Pairs from which on a mean so far above the null is found; 2 is the least that has a deviation."""
    if not 0 < effect < math.inf:
        raise UserError(f"effect: got {effect}; valid: above 0 and finite")
    return _smallest(lambda pairs: detectable_mean(deviation, pairs, significance, power) <= effect, 2)


def detectable_proportion(n: int, chance: float, significance: float = 0.05, power: float = POWER) -> float | None:
    """Smallest share above `chance` that the exact test finds; None: not even n successes of n."""
    _check(significance, power)
    check_probability("chance", chance)
    _at_least("n", n, 1)
    count = int(critical_counts(np.array([n]), chance, significance)[0])
    return None if count > n else max(chance, float(betaincinv(count, n - count + 1, power)))


def required_trials(share: float, chance: float, significance: float = 0.05, power: float = POWER) -> int:
    """Trials from which on the exact test finds `share` for every number of trials: its power is a saw-tooth in n."""
    _check(significance, power)
    check_probability("chance", chance)
    if not chance < share <= 1:
        raise UserError(f"share: got {share}; valid: above the chance level {chance}, at most 1")
    spread = float(ndtri(1 - significance)) * math.sqrt(chance * (1 - chance))
    spread += float(ndtri(power)) * math.sqrt(share * (1 - share))
    if spread > (share - chance) * math.sqrt(MOST_TRIALS):  # by the normal law
        raise UserError(f"share: got {share} against {chance}; more than {MOST_TRIALS} trials are needed")
    most = 256
    while True:
        trials = np.arange(1, most + 1)
        short = np.flatnonzero(_tail(critical_counts(trials, chance, significance), trials, share) < power)
        if len(short) == 0 or short[-1] < most // 2:  # enough in all of the upper half: the teeth only shrink
            return int(short[-1]) + 2 if len(short) else 1
        most *= 2


def critical_counts(n: Int[np.ndarray, "sizes"], chance: float, significance: float) -> Int[np.ndarray, "sizes"]:
    """Smallest c with P[Bin(n, chance) ≥ c] ≤ significance; n + 1 where there is none."""
    counts = np.clip(np.ceil(np.nan_to_num(bdtrik(1 - significance, n, chance))).astype(np.int64) + 1, 1, n + 1)
    while (lower := (counts > 1) & (_tail(np.maximum(counts - 1, 1), n, chance) <= significance)).any():
        counts = counts - lower  # bdtrik is continuous in the count, and rounded
    while (higher := (counts <= n) & (_tail(counts, n, chance) > significance)).any():
        counts = counts + higher
    return counts


def _tail(counts: Int[np.ndarray, "sizes"], n: Int[np.ndarray, "sizes"], chance: float) -> Float64[np.ndarray, "sizes"]:
    """P[Bin(n, chance) ≥ c], c ≥ 1; 0 beyond n."""
    inside = np.minimum(counts, n)
    return np.where(counts > n, 0.0, betainc(inside, n - inside + 1, chance))


def _smallest(enough: Callable[[int], bool], least: int) -> int:
    """By doubling and bisection; `enough` stays true once it is."""
    most = least
    while not enough(most):
        most *= 2
        if most > MOST:
            raise UserError(f"effect: too small; more than {MOST} are needed to find it")
    below = most // 2
    while most - below > 1:
        middle = (below + most) // 2
        below, most = (below, middle) if enough(middle) else (middle, most)
    return max(most, least)


def _root(missing: Callable[[float], float], low: float, high: float) -> float:
    """Where the effect is large enough."""
    return cast(float, brentq(missing, low, high))


def _at_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise UserError(f"{name}: got {value}; valid: at least {least}")


def _check(significance: float, power: float) -> None:
    check_probability("significance", significance)
    if not significance < power < 1:
        raise UserError(f"power: got {power}; valid: above the significance level {significance}, below 1")
