"""The bound that assumes a Gaussian trade-off: published values, validity for Gaussians, and what it over-reads."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit, ndtri

from fedsim.audit.statistics.one_run import Guesses, lower_bound
from fedsim.audit.statistics.one_run_f_dp import (
    ASSUMPTION,
    gaussian_bound,
    gaussian_curve,
    gaussian_frontier_bound,
    pure_curve,
    refutes_curve,
)
from fedsim.audit.statistics.one_run_power import audit_toy
from fedsim.privacy.accountant import epsilon_of
from fedsim.types import UserError
from tests.reference import audit_statistics as literal

LIGHT = settings(max_examples=40, deadline=None)


@pytest.mark.parametrize(("shift", "epsilon"), [(0, 0.0), (1, 2.164749), (2, 4.7218075), (4, 9.133752)])
def test_published_bounds(shift, epsilon):
    """Test constants of jax_privacy: 10⁴ in, 10⁴ out, significance .05, δ = 1e-6, k₋ = 0, Pareto frontier."""
    grid = ndtri((np.arange(10_000) + 0.5) / 10_000)
    found = gaussian_frontier_bound(np.r_[grid + shift, grid], np.arange(20_000) < 10_000)
    assert epsilon_of(found.value, 1e-6) == pytest.approx(epsilon, rel=1e-5)
    assert found.value < shift or shift == 0  # the true μ


@LIGHT
@given(st.integers(1, 80), st.floats(0, 4), st.sampled_from([0.05, 0.001]), st.booleans(), st.data())
def test_it_is_the_literal_recursion(canaries, size, significance, gaussian, data):
    made = data.draw(st.integers(1, canaries))
    right = data.draw(st.integers(0, made))
    curve = gaussian_curve(size) if gaussian else pure_curve(size)
    expected = literal.refutes_curve(canaries, made, right, curve, significance)
    assert refutes_curve(Guesses(canaries, made, right), curve, significance) is expected


@LIGHT
@given(st.integers(2, 200), st.data())
def test_more_right_guesses_prove_more(canaries, data):
    right = data.draw(st.integers(0, canaries - 1))
    fewer = gaussian_bound(Guesses(canaries, canaries, right))
    assert gaussian_bound(Guesses(canaries, canaries, right + 1)) >= fewer - 1e-8
    assert gaussian_bound(Guesses(canaries, canaries, right), 0.001) <= fewer + 1e-8


@pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
def test_an_honest_gaussian_is_not_refuted_and_read_sharper(sigma):
    audits = audit_toy(1000, sigma, 100, 1e-5, np.random.default_rng(0), runs=100)
    found = {one: gaussian_bound(one) for one in set(audits.guesses)}
    assert sum(found[one] > 1 / sigma for one in audits.guesses) <= 5 + 3 * (100 * 0.05 * 0.95) ** 0.5
    assert np.mean([epsilon_of(found[one], 1e-5) for one in audits.guesses if found[one] > 0]) > audits.mean


@pytest.mark.parametrize(("epsilon", "low", "high"), [(0.5, 0.67, 0.80), (1.0, 1.58, 1.79), (2.0, 3.3, 3.6)])
def test_honest_randomised_response_is_over_read(epsilon, low, high):
    """Why it is labelled and contradicts nothing: it reads a true ε of 1 as 1.6, and the (ε, δ) form does not."""
    canaries = 2000
    found = Guesses(canaries, canaries, round(canaries * float(expit(epsilon))))
    read = epsilon_of(gaussian_bound(found), 1e-5)
    assert low <= read <= high
    assert read > epsilon
    assert lower_bound(found, 1e-5) <= epsilon
    assert not refutes_curve(found, pure_curve(epsilon), 0.05)  # with its own trade-off curve it is not refuted
    strict = epsilon_of(gaussian_bound(found, 0.001), 1e-5)
    assert strict > epsilon or epsilon < 1  # at the level of a contradiction too, from ε = 1 on
    assert "assumes trade-off f" in ASSUMPTION


def test_its_own_curve_is_refuted_no_oftener_than_promised():
    rng, runs, canaries = np.random.default_rng(1), 400, 300
    right = rng.binomial(canaries, float(expit(1.0)), runs)
    known = {int(v): refutes_curve(Guesses(canaries, canaries, int(v)), pure_curve(1.0), 0.05) for v in set(right)}
    assert sum(known[int(v)] for v in right) <= 0.05 * runs + 3 * (runs * 0.05 * 0.95) ** 0.5


def test_wrong_input():
    for significance in (0.0, 1.0):
        with pytest.raises(UserError, match="significance"):
            gaussian_bound(Guesses(10, 5, 5), significance)
        with pytest.raises(UserError, match="significance"):
            gaussian_frontier_bound(np.arange(4.0), np.array([True, False, True, False]), significance)
