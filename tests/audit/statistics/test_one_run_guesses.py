"""Guesses from scores: published bounds, ties, and searches that find what trying everything finds."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, ndtri

from fedsim.audit.statistics.one_run import Guesses, contradicts, lower_bound
from fedsim.audit.statistics.one_run_guesses import (
    fixed_guesses,
    frontier_bound,
    frontier_guesses,
    grid_bound,
    upper_hull,
)
from fedsim.types import UserError
from tests.reference import audit_statistics as literal

LIGHT = settings(max_examples=25, deadline=None)


def quantile_scores(shift: float, each: int = 10_000) -> tuple[np.ndarray, np.ndarray]:
    """`each` canaries in and out, with the quantiles (i + ½)/n of N(shift, 1) and N(0, 1)."""
    grid = ndtri((np.arange(each) + 0.5) / each)
    return np.r_[grid + shift, grid], np.arange(2 * each) < each


def toy(seed: int, canaries: int, values: int | None = None) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    included = rng.random(canaries) < 0.5
    scores = included + rng.normal(0, 0.5, canaries)
    return (scores if values is None else np.round(scores * values)), included


@pytest.mark.parametrize(("shift", "epsilon"), [(0, 0.0), (1, 1.13346), (2, 2.311945), (4, 4.395568)])
def test_published_bounds(shift, epsilon):
    """Test constants of jax_privacy: significance .05, δ = 1e-6, thresholds of the Pareto frontier."""
    scores, included = quantile_scores(shift)
    assert frontier_bound(scores, included, 1e-6).value == pytest.approx(epsilon, rel=1e-5)


@LIGHT
@given(st.integers(0, 2**31), st.integers(1, 40), st.sampled_from([1, 3, None]))
def test_the_frontier_is_the_hull_by_definition(seed, canaries, values):
    scores, included = toy(seed, canaries, values)
    points = [(0, 0)]
    for threshold in sorted(set(scores.tolist()), reverse=True):
        above = scores >= threshold
        points.append((int((above & ~included).sum()), int((above & included).sum())))
    corners = literal.upper_hull(points)
    found = frontier_guesses(scores, included)
    assert found == [Guesses(canaries, sum(points[at]), points[at][1]) for at in corners]
    assert upper_hull(np.array([x for x, _ in points]), np.array([y for _, y in points])) == corners


@LIGHT
@given(st.integers(0, 2**31), st.sampled_from([3, None]), st.sampled_from([0.0, 1e-4]))
def test_the_search_over_the_frontier_is_trying_them_all(seed, values, delta):
    scores, included = toy(seed, 120, values)
    found = frontier_bound(scores, included, delta)
    candidates = frontier_guesses(scores, included)
    bounds = [lower_bound(one, delta, 0.05 / len(candidates)) for one in candidates]
    assert found.value == pytest.approx(max(bounds), abs=1e-7)
    assert (found.tests, found.significance) == (len(candidates), pytest.approx(0.05 / len(candidates)))


def test_the_grid_pays_for_four():
    scores, included = toy(0, 600)
    found = grid_bound(scores, included, 1e-5, np.random.default_rng(1))
    rng = np.random.default_rng(1)
    each = [fixed_guesses(scores, included, k, k, rng) for k in (30, 60, 120, 200)]
    assert found.value == pytest.approx(max(lower_bound(one, 1e-5, 0.0125) for one in each), abs=1e-7)
    assert found.guesses in each
    assert (found.tests, found.significance) == (4, 0.0125)
    assert found.value > 0


def test_fixed_guesses_take_both_ends():
    scores = np.array([5.0, 1.0, 4.0, 2.0, 3.0, 0.0])
    included = np.array([True, False, False, True, True, True])
    rng = np.random.default_rng(0)
    assert fixed_guesses(scores, included, 2, 0, rng) == Guesses(6, 2, 1)  # 5 is in, 4 is not
    assert fixed_guesses(scores, included, 0, 2, rng) == Guesses(6, 2, 1)  # 1 is out, 0 is not
    assert fixed_guesses(scores, included, 1, 2, rng) == Guesses(6, 3, 2)
    assert fixed_guesses(scores, included, 3, 3, rng) == Guesses(6, 6, 3)


def test_equal_scores_are_ordered_by_chance_not_by_place():
    scores, included = np.zeros(2000), np.arange(2000) < 1000
    right = [fixed_guesses(scores, included, 500, 500, np.random.default_rng(seed)).right for seed in range(20)]
    assert 450 < min(right) <= max(right) < 550
    assert len(set(right)) > 5


@pytest.mark.parametrize("epsilon", [0.5, 1.0, 2.0])
def test_honest_randomised_response_is_not_contradicted(epsilon):
    rng, runs, canaries = np.random.default_rng(0), 200, 1000
    q = float(expit(epsilon))
    found: list[Guesses] = []
    for _ in range(runs):
        included = rng.random(canaries) < 0.5
        answers = np.where(rng.random(canaries) < q, included, ~included).astype(float)
        found.append(fixed_guesses(answers, included, 100, 100, rng))
    assert not any(contradicts(one, epsilon, delta) for one in set(found) for delta in (0.0, 1e-5))
    bounds = {one: lower_bound(one, 1e-5) for one in set(found)}
    above = sum(bounds[one] > epsilon for one in found)
    assert above <= 0.05 * runs + 3 * (runs * 0.05 * 0.95) ** 0.5


def test_wrong_input():
    scores, included, rng = np.arange(4.0), np.array([True, False, True, False]), np.random.default_rng(0)
    for positive, negative in ((3, 2), (-1, 2), (0, 0)):
        with pytest.raises(UserError, match="guesses"):
            fixed_guesses(scores, included, positive, negative, rng)
    with pytest.raises(UserError, match="included: got 3 for 4"):
        inspect.unwrap(fixed_guesses)(scores, included[:3], 1, 1, rng)  # without the shape checks of the test run
    with pytest.raises(UserError, match="scores"):
        grid_bound(np.full(4, np.nan), included, 1e-5, rng)
    with pytest.raises(UserError, match="claim"):
        frontier_bound(np.arange(4.0), included, 1.0)
