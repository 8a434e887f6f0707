"""Membership attacks, literally: one record, one run, one observation at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import digamma
from scipy.stats import t as student

from fedsim.seeding import numpy_stream


def predictive(
    x: float, observed: Sequence[float], mean: float, kappa: float, degrees: float, variance: float
) -> float:
    """log density of `x` after `observed`, which come one after another; each posterior is the next one's prior."""
    shape, scale = degrees / 2, degrees * variance / 2
    for value in observed:
        if math.isnan(value):
            continue
        scale += kappa * (value - mean) ** 2 / (2 * (kappa + 1))
        mean = (kappa * mean + value) / (kappa + 1)
        kappa, shape = kappa + 1, shape + 0.5
    return float(student.logpdf(x, 2 * shape, mean, math.sqrt(scale * (kappa + 1) / (shape * kappa))))


def priors(
    values: np.ndarray, members: np.ndarray, degrees: float
) -> tuple[list[float], list[float], float, float, float]:
    """(m_in and m_out of every record, κ, s²_in, s²_out) of complete values."""
    inside = [
        [v for v, m in zip(column, row, strict=True) if m] for column, row in zip(values.T, members.T, strict=True)
    ]
    outside = [
        [v for v, m in zip(column, row, strict=True) if not m] for column, row in zip(values.T, members.T, strict=True)
    ]
    spread, typical = [], []
    for world in (inside, outside):
        freedom = len(world[0]) - 1
        logs = [math.log(np.var(one, ddof=1)) - digamma(freedom / 2) + math.log(freedom / 2) for one in world]
        typical.append(math.exp(sum(logs) / len(logs) + digamma(degrees / 2) - math.log(degrees / 2)))
        squares = sum(sum((v - sum(one) / len(one)) ** 2 for v in one) for one in world)
        spread.append(squares / sum(len(one) - 1 for one in world))
    gaps = [sum(a) / len(a) - sum(b) / len(b) for a, b in zip(inside, outside, strict=True)]
    shift = sum(gaps) / len(gaps)
    chance = [spread[0] / len(a) + spread[1] / len(b) for a, b in zip(inside, outside, strict=True)]
    beyond = sum((gap - shift) ** 2 - noise for gap, noise in zip(gaps, chance, strict=True)) / len(gaps)
    kappa = min(1e6, sum(spread) / beyond) if beyond > 0 else 1e6
    middles = [(sum(a) / len(a) + sum(b) / len(b)) / 2 for a, b in zip(inside, outside, strict=True)]
    return [m + shift / 2 for m in middles], [m - shift / 2 for m in middles], kappa, typical[0], typical[1]


def likelihood_ratios(target: np.ndarray, values: np.ndarray, members: np.ndarray, degrees: float) -> list[float]:
    """Λ of every record of one target, from complete values."""
    mean_in, mean_out, kappa, variance_in, variance_out = priors(values, members, degrees)
    found = []
    for record, x in enumerate(target):
        column, inside = values[:, record], members[:, record]
        log_in = predictive(x, column[inside].tolist(), mean_in[record], kappa, degrees, variance_in)
        log_out = predictive(x, column[~inside].tolist(), mean_out[record], kappa, degrees, variance_out)
        found.append(log_in - log_out)
    return found


def area(scores: np.ndarray, members: np.ndarray) -> float:
    """Share of (member, non-member) in which the member's score is larger, ties ½."""
    wins = [
        1.0 if a > b else 0.5 if a == b else 0.0
        for a, inside in zip(scores, members, strict=True)
        if inside
        for b, other in zip(scores, members, strict=True)
        if not other
    ]
    return sum(wins) / len(wins)


def relative(
    records: np.ndarray, elsewhere: np.ndarray, public: np.ndarray, public_elsewhere: np.ndarray, gamma: float
) -> list[float]:
    """RMIA's score, one pair (x, z) after another."""
    found = []
    for i, p in enumerate(records):
        above = 0
        for j, q in enumerate(public):
            left = p / (sum(elsewhere[:, i]) / len(elsewhere))
            right = q / (sum(public_elsewhere[:, j]) / len(public_elsewhere))
            above += left / right >= gamma
        found.append(above / len(public))
    return found


def complementary(pairs: int, labels: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Rows 2j and 2j + 1 of a membership matrix: half of every class, and the other half."""
    rows: list[np.ndarray] = []
    for _ in range(pairs):
        row = np.zeros(len(labels), bool)
        for label in set(labels.tolist()):
            places = np.flatnonzero(labels == label)
            row[rng.permutation(places)[: len(places) // 2]] = True
        rows += [row, ~row]
    return np.array(rows)


def toy(shift: float, pairs: int, records: int, seed: int, spread: float = 0.0, inside: float = 1.0) -> tuple:
    """x = difficulty of the record + shift where it is a member + noise, of deviation `inside` for members."""
    rng = numpy_stream(seed, "toy")
    labels = np.arange(records) % 2
    members = complementary(pairs, labels, rng)
    shifts = shift + spread * rng.normal(size=records)
    noise = rng.normal(size=members.shape) * np.where(members, inside, 1.0)
    return 3 * rng.normal(size=records) + np.where(members, shifts, 0) + noise, members, labels
