"""One number per target over complementary pairs of shadow runs: interval and test by Student's t.

    z_j = (x_2j + x_2j+1)/2            row 2j + 1 of the membership matrix is 1 − row 2j: two targets, one piece
    z̄ ± t_{J/2 − 1} s_z / √(J/2)

All rows share the records of one pool: the interval is for further runs on this pool, not for further pools.

Source  Student's t. Fewer than `LEAST_PAIRS` pairs are refused: at 4 a percentile bootstrap covers .80 of .95.
Code    none read.
Differs where all pairs agree, s_z is 0 and the t interval has no width. With `bounds`, Hoeffding's inequality for a
        mean of J/2 numbers within them stands in its place; without, `method` says that there is no spread.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float, Float64
from scipy.special import stdtr

from fedsim.audit.statistics.inputs import TooFew, check_level
from fedsim.audit.types import Estimate
from fedsim.training.intervals import mean_ci
from fedsim.types import UserError

LEAST_PAIRS = 5
"""Pairs below which no interval is given."""


def pair_means(values: Float[np.ndarray, "targets"]) -> Float64[np.ndarray, "pairs"]:
    """z: the targets 2j and 2j + 1 averaged."""
    if len(values) % 2 or not bool(np.isfinite(values).all()):
        raise UserError(f"values: got {len(values)}, {int(np.isfinite(values).sum())} of them finite; valid: a finite "
                        "number for both targets of each pair; leave out both where one failed")  # fmt: skip
    return values.astype(np.float64).reshape(-1, 2).mean(1)


def over_pairs(
    values: Float[np.ndarray, "targets"], level: float = 0.95, bounds: tuple[float, float] | None = None
) -> Estimate | TooFew:
    """Mean over targets and its interval; `bounds` are the ends of the metric's range, such as (0, 1) of an AUC."""
    check_level(level)
    means = pair_means(values)
    if (few := _too_few(means)) is not None:
        return few
    low, high = bounds if bounds is not None else (-math.inf, math.inf)
    if not low <= float(means.min()) <= float(means.max()) <= high:
        raise UserError(f"bounds: got [{low}, {high}] and pairs in [{means.min()}, {means.max()}]; valid: the range of "
                        "the metric")  # fmt: skip
    n, centre = len(means), float(means.mean())
    if _no_spread(means):
        centre = float(means[0])
        half = (high - low) * math.sqrt(math.log(2 / (1 - level)) / (2 * n)) if bounds is not None else 0.0
        method = f"{'Hoeffding' if bounds is not None else 'no width'} over pairs: all pairs agree, s is 0"
        return Estimate(centre, max(low, centre - half), min(high, centre + half), level, method, n)
    ends = mean_ci(means.tolist(), level)[1]
    assert ends is not None  # at least five pairs
    return Estimate(centre, max(low, min(ends[0], centre)), min(high, max(ends[1], centre)), level, "t over pairs", n)


def pairs_p_value(values: Float[np.ndarray, "targets"], null: float) -> float | TooFew:
    """One-sided, against 'the mean is at most `null`': t test over pairs; the sign test, 2^−n, where all agree."""
    means = pair_means(values)
    if (few := _too_few(means)) is not None:
        return few
    n = len(means)
    if _no_spread(means):
        return 0.5**n if means[0] > null else 1.0
    t = (float(means.mean()) - null) / (float(means.std(ddof=1)) / math.sqrt(n))
    return float(stdtr(n - 1, -t))


def _no_spread(means: Float64[np.ndarray, "pairs"]) -> bool:
    """Equal but for rounding: the deviation of equal means is not exactly 0."""
    return float(np.ptp(means)) <= 1e-12 * float(np.abs(means).max())


def _too_few(means: Float64[np.ndarray, "pairs"]) -> TooFew | None:
    return TooFew("pairs of targets", len(means), LEAST_PAIRS) if len(means) < LEAST_PAIRS else None
