"""Likelihood ratios from a few runs: what a further value of a record would be in runs with it and without it.

    of each world b, in or out:     x ~ N(μ, σ²),   μ | σ² ~ N(m_b, σ²/κ),   σ² ~ scaled inverse χ² (ν₀, s_b²)
    after x₁ … x_n with mean x̄:     κ_n = κ + n,   ν_n = ν₀ + n,   μ_n = (κ m_b + n x̄)/κ_n
                                    ν_n σ_n² = ν₀ s_b² + Σ (x_j − x̄)² + κ n/κ_n (x̄ − m_b)²
    a further one:                  t_{ν_n}, centre μ_n, squared scale σ_n² (1 + 1/κ_n)

    x̄_in, x̄_out   means of a record in the two worlds, Δ = x̄_in − x̄_out
    s_i²           a record's own variance in one world, d = n − 1 degrees of freedom
    ν₀             solves  var(log s_i²) = ψ′(d/2) + ψ′(ν₀/2)                                          in either world
    s_b²           log s_b² = mean(log s_i²) − ψ(d/2) + log(d/2) + ψ(ν₀/2) − log(ν₀/2)                 in either world
    m_in, m_out    (x̄_in + x̄_out)/2 ± (mean of Δ over records)/2
    κ              (v_in + v_out)/τ², v mean of s_i², τ² what Δ varies over records beyond chance; at most `MOST`

With few runs a record's own Δ and variance are mostly chance; they are drawn to those of all records as far as the
records are alike. Gaussian toy, shift 1, AUC at best .760 (tests/attacks/test_membership_likelihoods.py): .743 from 6
runs, .755 from 14, .760 from 62.

Source  normal-inverse-gamma prior for few runs: Brännvall, arXiv 2603.11799 (abstract read); the values of the prior
        are not taken from there. ν₀ and s_b²: Smyth, Stat. Appl. Genetics and Molecular Biology 3, 2004.
Code    none read.
Reduces κ → 0 and ν₀ → ∞: the normal likelihood ratio with one variance per world.
Cost    one pass over J × N numbers, whatever the number of pairs that are left out in turn.
"""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float64, Int
from scipy.special import digamma, gammaln, polygamma

MOST = 1e6
"""κ where records differ no more than by chance, so that all get the common Δ; and ν₀, so that all get one variance."""
LEAST = 0.1
"""ν₀ where they have next to nothing in common."""
FLOOR = 1e-12
"""Least variance, as a share of that of all numbers together."""


class World(NamedTuple):
    """One world of every record, with every pair of runs left out in turn."""

    n: Int[np.ndarray, "pairs records"]
    """Runs that were measured."""
    mean: Float64[np.ndarray, "pairs records"]
    squares: Float64[np.ndarray, "pairs records"]
    """Σ (x_j − x̄)²."""


class Prior(NamedTuple):
    """What one world is believed to be before a record's own runs."""

    mean: Float64[np.ndarray, "pairs records"]
    """m_b."""
    kappa: Float64[np.ndarray, "pairs 1"]
    degrees: Float64[np.ndarray, "pairs 1"]
    """ν₀."""
    variance: Float64[np.ndarray, "pairs 1"]
    """s_b²."""


def world(
    values: Float64[np.ndarray, "runs records"], there: Bool[np.ndarray, "runs records"], left_out: int = 0
) -> World:
    """Of the finite values of the runs that `there` marks; `left_out` pairs of rows in turn, 0: one row with none."""
    there = there & np.isfinite(values)
    kept = np.where(there, values, 0.0)
    middle = kept.sum(0) / np.maximum(there.sum(0), 1)  # sums of squares about it lose no digits
    kept = np.where(there, kept - middle, 0.0)
    sums = [one.sum(0, keepdims=True) for one in (there, kept, kept**2)]
    if left_out:
        sums = [
            whole - one.reshape(left_out, 2, -1).sum(1) for whole, one in zip(sums, (there, kept, kept**2), strict=True)
        ]
    n, first, second = sums
    mean = first / np.maximum(n, 1)
    return World(n, middle + mean, np.maximum(second - n * mean**2, 0.0))


def log_predictive(
    x: Float64[np.ndarray, "pairs records"], seen: World, prior: Prior
) -> Float64[np.ndarray, "pairs records"]:
    """log t of a further value of each record."""
    kappa, degrees = prior.kappa + seen.n, prior.degrees + seen.n
    centre = (prior.kappa * prior.mean + seen.n * seen.mean) / kappa
    off = prior.kappa * seen.n / kappa * (seen.mean - prior.mean) ** 2
    squared = (prior.degrees * prior.variance + seen.squares + off) / degrees * (1 + 1 / kappa)
    counts = prior.degrees + np.arange(seen.n.max() + 1)  # few different n: the constants once for each
    constants = gammaln((counts + 1) / 2) - gammaln(counts / 2) - np.log(np.pi * counts) / 2
    constant = np.take_along_axis(constants, seen.n, 1) - np.log(squared) / 2
    return constant - (degrees + 1) / 2 * np.log1p((x - centre) ** 2 / (degrees * squared))


def priors(inside: World, outside: World, degrees: float | None, total: float) -> tuple[Prior, Prior]:
    """Of both worlds, from all records; `total` is the variance of all numbers together."""
    known = (inside.n > 0) & (outside.n > 0)
    many = np.maximum(known.sum(1, keepdims=True), 1)
    difference = np.where(known, inside.mean - outside.mean, 0.0)
    shift = difference.sum(1, keepdims=True) / many
    middle = np.where(known, (inside.mean + outside.mean) / 2, 0.0)
    least = max(FLOOR * total, np.finfo(float).tiny)
    within = [np.maximum(pooled(one), least) for one in (inside, outside)]
    chance = sum(variance / np.maximum(one.n, 1) for variance, one in zip(within, (inside, outside), strict=True))
    beyond = np.where(known, (difference - shift) ** 2 - chance, 0.0).sum(1, keepdims=True) / many
    kappa = sum(within) / np.maximum(beyond, sum(within) / MOST)
    (nu_in, s_in), (nu_out, s_out) = (variances(one, degrees, least) for one in (inside, outside))
    return Prior(middle + shift / 2, kappa, nu_in, s_in), Prior(middle - shift / 2, kappa, nu_out, s_out)


def pooled(one: World) -> Float64[np.ndarray, "pairs 1"]:
    """Variance within records, mean over all; 0 where none has two runs."""
    freedom = np.maximum(one.n - 1, 0).sum(1, keepdims=True)
    return one.squares.sum(1, keepdims=True) / np.maximum(freedom, 1)


def variances(
    one: World, degrees: float | None, least: float
) -> tuple[Float64[np.ndarray, "pairs 1"], Float64[np.ndarray, "pairs 1"]]:
    """(ν₀, s_b²) of a world, from the records that differ in their runs by more than rounding.

    (`MOST`, `least`) where there is none.
    """
    several = (one.n > 1) & (one.squares > least)
    freedom, many = np.maximum(one.n - 1, 1), several.sum(1, keepdims=True)
    halves = np.arange(1, freedom.max() + 1) / 2
    logs = np.log(np.where(several, one.squares, 1.0) / freedom) - (digamma(halves) - np.log(halves))[freedom - 1]
    middle = np.where(several, logs, 0.0).sum(1, keepdims=True) / np.maximum(many, 1)
    if degrees is None:
        beyond = np.where(several, (logs - middle) ** 2, 0.0).sum(1, keepdims=True) / np.maximum(many - 1, 1)
        chance = np.where(several, polygamma(1, halves)[freedom - 1], 0.0)
        half = inverse_trigamma(beyond - chance.sum(1, keepdims=True) / np.maximum(many, 1))
    else:
        half = np.full(many.shape, degrees / 2)
    half = np.where(many > 1, half, MOST / 2)
    variance = np.exp(middle + digamma(half) - np.log(half))
    return 2 * half, np.where(many > 0, np.maximum(variance, least), least)


def inverse_trigamma(values: Float64[np.ndarray, "*shape"]) -> Float64[np.ndarray, "*shape"]:
    """x with ψ′(x) = value, to three digits, within `LEAST`/2 and `MOST`/2."""
    return np.exp(np.interp(np.log(np.maximum(values, np.finfo(float).tiny)), *_trigamma_table()))


@cache
def _trigamma_table() -> tuple[Float64[np.ndarray, "1000"], Float64[np.ndarray, "1000"]]:
    """log ψ′(x), rising, and log x: made once, it is read at every draw of the rows."""
    grid = np.geomspace(MOST, LEAST, 1000) / 2
    return np.log(polygamma(1, grid)), np.log(grid)


def likelihood_ratios(
    targets: Float64[np.ndarray, "pairs records"], inside: World, outside: World, degrees: float | None, total: float
) -> Float64[np.ndarray, "pairs records"]:
    """Λ of one statistic in runs whose members are not known; 0 where nothing was measured."""
    prior_in, prior_out = priors(inside, outside, degrees, total)
    measured = np.isfinite(targets) & (inside.n > 0) & (outside.n > 0)
    x = np.where(measured, targets, 0.0)
    ratios = log_predictive(x, inside, prior_in) - log_predictive(x, outside, prior_out)
    return np.where(measured, ratios, 0.0)


def scored(
    target: Float64[np.ndarray, "records"],
    values: Float64[np.ndarray, "runs records"],
    members: Bool[np.ndarray, "runs records"],
    degrees: float | None,
) -> Float64[np.ndarray, "records"]:
    """Λ of one target from runs whose members are known."""
    inside, outside = world(values, members), world(values, ~members)
    return likelihood_ratios(target[None], inside, outside, degrees, _variance(values))[0]


def leave_pairs_out(
    values: Float64[np.ndarray, "runs records"], members: Bool[np.ndarray, "runs records"], degrees: float | None
) -> Float64[np.ndarray, "runs records"]:
    """Λ of every run from all but itself and its complement: what `run` did for each target."""
    pairs, total = len(values) // 2, _variance(values)
    inside, outside = world(values, members, pairs), world(values, ~members, pairs)
    both = [likelihood_ratios(values[side::2], inside, outside, degrees, total) for side in (0, 1)]
    return np.stack(both, axis=1).reshape(values.shape)


def _variance(values: Float64[np.ndarray, "runs records"]) -> float:
    """Of all finite numbers."""
    finite = values[np.isfinite(values)]
    return float(finite.var()) if len(finite) else 0.0
