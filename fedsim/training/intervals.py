"""Intervals that stand beside accuracies: of a mean, of a difference of means, of a proportion."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import mean, variance
from typing import cast

from scipy.optimize import brentq
from scipy.special import ndtri, rel_entr, stdtrit

Interval = tuple[float, float]
"""Lower and upper end."""
FEWEST = 3
"""Seeds that an interval over seeds is taken from: of two, Student's t is twelve deviations wide and says nothing."""


def mean_ci(points: Sequence[float], level: float = 0.95) -> tuple[float, Interval | None]:
    """Mean and Student-t interval x̄ ± t_{n−1} s/√n; no interval for one point."""
    n = len(points)
    centre = sum(points) / n
    if n < 2:
        return centre, None
    deviation = math.sqrt(sum((point - centre) ** 2 for point in points) / (n - 1))
    half = float(stdtrit(n - 1, 0.5 + level / 2)) * deviation / math.sqrt(n)
    return centre, (centre - half, centre + half)


def over_seeds(points: Sequence[float], level: float = 0.95) -> tuple[float, Interval | None]:
    """`mean_ci` of one number in several runs; no interval for fewer than three."""
    centre, interval = mean_ci(points, level)
    return centre, interval if len(points) >= FEWEST else None


def bounded_ci(points: Sequence[float], level: float = 0.95) -> tuple[float, Interval | None]:
    """Mean of numbers in 0..1, such as areas under a curve, and an interval that is true of every law and stays there.

    All μ with n · KL(x̄ ‖ μ) ≤ ln(2/α), KL that of two Bernoulli laws: P[x̄ this far to one side of μ] ≤ exp(−n KL)
    (Hoeffding, JASA 58, 1963, theorem 1). Where all points are 0, or all 1, it is Clopper's and Pearson's of as many
    failures or successes. It is wide, since few points of a bounded law say little; none for one point.
    """
    n = len(points)
    centre = min(1.0, sum(points) / n)
    if not 0 <= min(points) <= max(points) <= 1:
        raise ValueError(f"got points in {min(points)}..{max(points)}; valid: 0..1")
    if n < 2:
        return centre, None
    most = math.log(2 / (1 - level)) / n
    return centre, (_lowest(centre, most), 1 - _lowest(1 - centre, most))


def _lowest(centre: float, most: float) -> float:
    """The least μ with KL(centre ‖ μ) ≤ most."""

    def beyond(mu: float) -> float:
        return float(rel_entr(centre, mu) + rel_entr(1 - centre, 1 - mu)) - most

    least = 1e-300  # KL has no bound towards 0, but for a centre of rounding's size no double shows it
    if centre == 0 or beyond(least) <= 0:
        return 0.0
    return cast(float, brentq(beyond, least, centre, xtol=1e-15))


def difference_ci(left: Sequence[float], right: Sequence[float], level: float = 0.95) -> tuple[float, Interval | None]:
    """x̄ − ȳ of independent samples with Welch's interval; none where a sample has one point.

    Degrees of freedom by Welch and Satterthwaite: (a + b)² / (a²/(n−1) + b²/(m−1)), a = s²_x/n, b = s²_y/m.
    """
    centre = mean(left) - mean(right)
    if min(len(left), len(right)) < 2:
        return centre, None
    a, b = variance(left) / len(left), variance(right) / len(right)
    if a + b == 0:
        return centre, (centre, centre)
    freedom = (a + b) ** 2 / (a**2 / (len(left) - 1) + b**2 / (len(right) - 1))
    half = float(stdtrit(freedom, 0.5 + level / 2)) * math.sqrt(a + b)
    return centre, (centre - half, centre + half)


def paired_difference(both: int, first: int, second: int, neither: int, level: float = 0.95) -> tuple[float, Interval]:
    """p₁ − p₂ of two proportions over the same items, and its interval: Newcombe 1998, method 10.

    `both` items are right in both, `first` and `second` in one only, `neither` in none. Wilson's limits of the two
    proportions are combined with the correlation φ of the table.
    """
    n = both + first + second + neither
    p, q = (both + first) / n, (both + second) / n
    (low_p, high_p), (low_q, high_q) = wilson(both + first, n, level), wilson(both + second, n, level)
    margins = (both + first) * (second + neither) * (both + second) * (first + neither)
    cross = both * neither - first * second
    cross = max(cross - n / 2, 0.0) if cross > 0 else cross  # a continuity correction
    phi = cross / math.sqrt(margins) if margins else 0.0
    down, up = p - low_p, high_q - q
    left = math.sqrt(max(down**2 - 2 * phi * down * up + up**2, 0.0))
    down, up = high_p - p, q - low_q
    right = math.sqrt(max(down**2 - 2 * phi * down * up + up**2, 0.0))
    return p - q, (p - q - left, p - q + right)


def wilson(right: int, n: int, level: float = 0.95) -> Interval:
    """Wilson's score interval of a proportion: how far a finite test set pins an accuracy down."""
    z = float(ndtri(0.5 + level / 2))
    share = right / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)
