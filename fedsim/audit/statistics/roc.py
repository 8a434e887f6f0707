"""Operating points of a membership attack: TPR at a small FPR, with and without a calibrated threshold; advantage.

A record is called a member where its score is **above** the threshold.

    TPR at FPR ≤ α       threshold: the (k + 1)-th largest non-member score, k = ⌊n_out α⌋. At most k non-members lie
                         above it, whatever ties there are, and every lower threshold calls more of them members.
                         No interpolation between thresholds.
    advantage            TPR − FPR at a threshold that was not chosen on these scores
                         s² = TPR (1 − TPR)/n_in + FPR (1 − FPR)/n_out

Source  operating points: Carlini et al., "Membership Inference Attacks From First Principles", S&P 2022, arXiv
        2112.03570. Interval of a difference of shares: Newcombe, Statistics in Medicine 17, 1998, method 10.
Code    none read.
Differs a TPR is refused where fewer than `LEAST_FALSE` non-members may lie above the threshold.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float64

from fedsim.audit.statistics.hypergeometric import drawn_members
from fedsim.audit.statistics.inputs import TooFew, check_level, check_probability, check_scores
from fedsim.audit.statistics.proportions import clopper_pearson
from fedsim.audit.types import Estimate
from fedsim.training.intervals import wilson

LEAST_FALSE = 10
"""Non-members that FPR α must leave above the threshold: with fewer the threshold itself is chance."""


@dataclass(frozen=True)
class OperatingPoint:
    """TPR at FPR ≤ α, threshold and FPR from the same non-members."""

    threshold: float
    false_positive_rate: float
    """At most α by construction, so a little flattering; the calibrated form says how much."""
    true_positive_rate: Estimate
    """Interval for members at this threshold."""


@dataclass(frozen=True)
class CalibratedPoint:
    """TPR and FPR at a threshold from non-members that neither rate is measured on."""

    threshold: float
    false_positive_rate: Estimate
    true_positive_rate: Estimate
    p: float
    """Fisher's exact test, one-sided, that the TPR is above the FPR at this threshold."""


@dataclass(frozen=True)
class Advantage:
    """TPR − FPR at a threshold given beforehand."""

    estimate: Estimate
    standard_error: float
    """√s²; 0 at a complete separation, where the interval is not."""
    null_standard_error: float
    """Of an attack that guesses half: ½ √(1/n_in + 1/n_out)."""
    p: float
    """Fisher's exact test, one-sided, that it is above 0."""


def tpr_at_fpr(
    scores_in: Float[np.ndarray, "n_in"], scores_out: Float[np.ndarray, "n_out"], alpha: float, level: float = 0.95
) -> OperatingPoint | TooFew:
    """The point of the empirical ROC with the largest FPR ≤ α; `TooFew` where n_out α < `LEAST_FALSE`."""
    _check(scores_in, scores_out, level)
    if (few := _too_few(len(scores_out), alpha)) is not None:
        return few
    threshold = _threshold(scores_out, alpha)
    rate = float((scores_out > threshold).mean())
    return OperatingPoint(threshold, rate, _share_above(scores_in, threshold, level))


def calibrated_tpr(
    scores_in: Float[np.ndarray, "n_in"],
    scores_out: Float[np.ndarray, "n_out"],
    alpha: float,
    rng: np.random.Generator,
    level: float = 0.95,
) -> CalibratedPoint | TooFew:
    """Threshold from a random half of the non-members; FPR of the other half and TPR of members, Clopper-Pearson each.

    Both intervals are exact given the threshold. `TooFew` where n_out α < `LEAST_FALSE`, over all non-members; the
    interval of the FPR says how near to α half of them bring it.
    """
    _check(scores_in, scores_out, level)
    if (few := _too_few(len(scores_out), alpha)) is not None:
        return few
    mixed = rng.permutation(scores_out)
    half = len(mixed) // 2
    threshold, other = _threshold(mixed[:half], alpha), mixed[half:]
    false, true = _share_above(other, threshold, level), _share_above(scores_in, threshold, level)
    return CalibratedPoint(threshold, false, true, _fisher(scores_in, other, threshold))


def advantage(
    scores_in: Float[np.ndarray, "n_in"], scores_out: Float[np.ndarray, "n_out"], threshold: float, level: float = 0.95
) -> Advantage:
    """TPR − FPR at a threshold chosen elsewhere: chosen on these scores, its advantage is positive by chance alone."""
    _check(scores_in, scores_out, level)
    n, m = len(scores_in), len(scores_out)
    hits, alarms = int((scores_in > threshold).sum()), int((scores_out > threshold).sum())
    true, false = hits / n, alarms / m
    (true_low, true_high), (false_low, false_high) = wilson(hits, n, level), wilson(alarms, m, level)
    low = true - false - math.hypot(true - true_low, false_high - false)
    high = true - false + math.hypot(true_high - true, false - false_low)
    estimate = Estimate(true - false, max(low, -1.0), min(high, 1.0), level, "Newcombe, from Wilson's intervals", n + m)
    error = math.sqrt(true * (1 - true) / n + false * (1 - false) / m)
    return Advantage(estimate, error, math.sqrt(1 / n + 1 / m) / 2, _fisher(scores_in, scores_out, threshold))


def roc_points(
    scores_in: Float[np.ndarray, "n_in"], scores_out: Float[np.ndarray, "n_out"], most: int = 200
) -> tuple[Float64[np.ndarray, "points"], Float64[np.ndarray, "points"]]:
    """FPR (above 0, rising) and the TPR there, for a plot with logarithmic axes: at most `most` points, evenly in log.

    Each is the point `tpr_at_fpr` would give for k/n_out, refused nowhere: below `LEAST_FALSE`/n_out it is chance.
    """
    _check(scores_in, scores_out, 0.95)
    n = len(scores_out)
    counts = np.unique(np.round(np.geomspace(1, n, num=most)).astype(np.int64))
    falling = np.append(np.sort(scores_out)[::-1], -np.inf)
    thresholds = np.unique(falling[counts])[::-1]
    false, true = _shares_above(scores_out, thresholds), _shares_above(scores_in, thresholds)
    return false[false > 0], true[false > 0]


def _threshold(scores_out: Float[np.ndarray, "n_out"], alpha: float) -> float:
    """The (k + 1)-th largest."""
    n = len(scores_out)
    allowed = min(math.floor(n * alpha + 1e-9), n - 1)  # 0.07 · 100 is 7.000000000000001, 0.29 · 100 is 28.999…
    return float(np.partition(scores_out, n - 1 - allowed)[n - 1 - allowed])


def _share_above(scores: Float[np.ndarray, "n"], threshold: float, level: float) -> Estimate:
    return clopper_pearson(int((scores > threshold).sum()), len(scores), level)


def _fisher(scores_in: Float[np.ndarray, "n_in"], scores_out: Float[np.ndarray, "n_out"], threshold: float) -> float:
    """Of the records above the threshold, are more members than a draw from all would bring?"""
    hits, alarms = int((scores_in > threshold).sum()), int((scores_out > threshold).sum())
    n, m = len(scores_in), len(scores_out)
    return drawn_members(hits, [hits + alarms], [n], [n + m]).p if hits + alarms else 1.0


def _shares_above(
    scores: Float[np.ndarray, "n"], thresholds: Float[np.ndarray, "points"]
) -> Float64[np.ndarray, "points"]:
    return (len(scores) - np.searchsorted(np.sort(scores), thresholds, "right")) / len(scores)


def _too_few(n_out: int, alpha: float) -> TooFew | None:
    check_probability("alpha", alpha)
    if n_out * alpha >= LEAST_FALSE - 1e-9:
        return None
    return TooFew(f"non-members for FPR {alpha:g}", n_out, math.ceil(LEAST_FALSE / alpha - 1e-9))


def _check(scores_in: Float[np.ndarray, "n_in"], scores_out: Float[np.ndarray, "n_out"], level: float) -> None:
    check_scores("scores_in", scores_in)
    check_scores("scores_out", scores_out)
    check_level(level)
