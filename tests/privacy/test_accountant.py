"""The accountant against published numbers, Opacus, and the properties that any accountant has."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.privacy import accountant
from fedsim.privacy.accountant import Releases, delta_of, epsilon_of, guarantee, mu_of, noise_for
from fedsim.types import UserError

DELTA = 1e-5


@pytest.mark.parametrize(
    ("number", "sigma", "epsilon"), [(10, 5, 2.594), (10, 20, 0.561), (100, 20, 1.993), (100, 50, 0.726)]
)
def test_full_batches_cost_what_gaussian_differential_privacy_says(number, sigma, epsilon):
    found = guarantee([Releases(sigma, number)], DELTA)
    assert found.epsilon == pytest.approx(epsilon, abs=5e-4)
    assert (found.method, found.note) == ("gaussian", "")


@pytest.mark.filterwarnings("ignore:Optimal order")
@pytest.mark.parametrize(
    ("number", "rate", "sigma", "prv", "rdp"),
    [(1000, 0.01, 1.0, 1.838, 2.101), (1000, 0.05, 2.0, 3.710, 4.024), (1000, 0.1, 5.0, 2.661, 2.880)],
)
def test_poisson_samples_cost_what_opacus_says(number, rate, sigma, prv, rdp):
    from opacus.accountants import PRVAccountant, RDPAccountant

    found = guarantee([Releases(sigma, number, rate)], DELTA)
    assert (found.method, found.epsilon) == ("prv", pytest.approx(prv, abs=1e-3))
    for kind, own, golden in (("prv", PRVAccountant(), prv), ("rdp", RDPAccountant(), rdp)):
        own.history = [(sigma, rate, number)]
        assert accountant._opacus(kind, [(sigma, rate, number)], DELTA) == own.get_epsilon(DELTA)
        assert own.get_epsilon(DELTA) == pytest.approx(golden, abs=1e-3)


def test_prv_of_opacus_bounds_the_exact_answer_for_full_batches_closely():
    exact = guarantee([Releases(20.0, 100)], DELTA).epsilon
    assert exact < accountant._opacus("prv", [(20.0, 1.0, 100)], DELTA) < exact + 0.02


def test_where_prv_fails_the_answer_is_that_of_rdp_and_says_so(monkeypatch):
    own = accountant._opacus

    def failing(kind, history, delta):
        if kind == "prv":
            raise ArithmeticError("ε = nan")
        return own(kind, history, delta)

    monkeypatch.setattr(accountant, "_opacus", failing)
    found = guarantee([Releases(1.0, 1000, 0.01)], DELTA)
    assert found.epsilon == pytest.approx(2.101, abs=1e-3)
    assert found.method == "rdp"
    assert "PRV failed (ε = nan)" in found.note


def test_an_epsilon_that_protects_nothing_is_not_computed_sharply():
    found = guarantee([Releases(0.3, 1000, 0.5)], DELTA)
    assert found.method == "rdp"
    assert found.epsilon > accountant.LIMIT
    assert "PRV takes minutes" in found.note


@pytest.mark.parametrize("answer", [-0.5, math.nan, math.inf])
def test_an_answer_of_opacus_that_is_no_epsilon_is_a_failure(monkeypatch, answer):
    from opacus.accountants import PRVAccountant

    monkeypatch.setattr(PRVAccountant, "get_epsilon", lambda self, delta: answer)
    assert guarantee([Releases(1.0, 10, 0.01)], DELTA).method == "rdp"


def literal_delta(mu: float, epsilon: float) -> float:
    """The equation as written; good where nothing overflows or cancels."""
    normal = lambda x: math.erfc(-x / math.sqrt(2)) / 2  # noqa: E731
    return normal(-epsilon / mu + mu / 2) - math.exp(epsilon) * normal(-epsilon / mu - mu / 2)


@pytest.mark.parametrize(("mu", "epsilon"), [(1.0, 0.0), (1.0, 1.0), (0.5, 0.3), (2.0, 5.0), (4.0, 3.0)])
def test_delta_is_that_of_the_equation(mu, epsilon):
    assert delta_of(mu, epsilon) == pytest.approx(literal_delta(mu, epsilon), rel=1e-10)


@pytest.mark.parametrize(("mu", "epsilon"), [(0.1, 40.0), (30.0, 900.0), (100.0, 5000.0), (3.0, 60.0), (1e-3, 0.02)])
def test_delta_is_right_where_the_equation_overflows_or_cancels(mu, epsilon):
    """Against δ = ∫ (1 − e^{ε−t}) dP over the privacy loss t ~ N(μ²/2, μ²), in steps of its tail."""
    a = epsilon / mu - mu / 2  # δ = ∫_a^∞ φ(z) (1 − e^{−μ(z − a)}) dz, scaled by φ(a)
    width = min(1.0, 1 / max(a, 1.0))
    steps = 200_000
    u = (np.arange(steps) + 0.5) / steps * 40 * width
    total = float((np.exp(-a * u - u * u / 2) * -np.expm1(-mu * u)).sum())
    log_literal = -a * a / 2 - math.log(2 * math.pi) / 2 + math.log(total * 40 * width / steps)
    found = delta_of(mu, epsilon)
    if log_literal < -744:  # beneath the smallest number there is
        assert found == 0.0
    else:
        assert math.log(found) == pytest.approx(log_literal, rel=1e-6)


MU = st.floats(1e-3, 60)
EPSILON = st.floats(1e-2, 300)
A_DELTA = st.floats(1e-12, 0.3)


@given(MU, MU, EPSILON, EPSILON)
def test_delta_falls_with_epsilon_and_rises_with_mu(mu, other, epsilon, larger):
    low, high = sorted([mu, other])
    near, far = sorted([epsilon, larger])
    assert 0 <= delta_of(low, far) <= delta_of(low, near) * (1 + 1e-9) + 1e-300
    assert delta_of(low, near) <= delta_of(high, near) * (1 + 1e-9) + 1e-300
    assert delta_of(high, 0.0) <= 1


@given(MU, A_DELTA)
def test_epsilon_is_the_smallest_that_suffices(mu, delta):
    epsilon = epsilon_of(mu, delta)
    assert delta_of(mu, epsilon) <= delta
    assert epsilon == 0 or delta_of(mu, epsilon * (1 - 1e-6)) > delta


@given(EPSILON, A_DELTA)
def test_mu_is_the_largest_that_suffices(epsilon, delta):
    mu = mu_of(epsilon, delta)
    assert delta_of(mu, epsilon) <= delta < delta_of(mu * (1 + 1e-6), epsilon)


@given(EPSILON, A_DELTA, st.integers(1, 5000), st.sampled_from(["add_remove", "replace"]))
@settings(max_examples=50)
def test_noise_for_a_target_keeps_it_and_wastes_nothing(epsilon, delta, number, adjacency):
    sigma = noise_for(epsilon, delta, number, adjacency=adjacency)
    assert guarantee([Releases(sigma, number)], delta, adjacency).epsilon <= epsilon
    assert guarantee([Releases(sigma * (1 - 1e-6), number)], delta, adjacency).epsilon > epsilon


def test_noise_for_a_target_under_sampling_keeps_it_and_wastes_little():
    sigma = noise_for(1.0, DELTA, 2, 0.01)  # other tests of this process ask the same, once
    assert guarantee([Releases(sigma, 2, 0.01)], DELTA).epsilon <= 1.0
    assert guarantee([Releases(sigma * 0.997, 2, 0.01)], DELTA).epsilon > 1.0


@given(st.lists(st.tuples(st.floats(0.5, 50), st.integers(1, 100)), min_size=1, max_size=6))
def test_releases_with_different_noise_add_up_in_squares(charges):
    mu = math.sqrt(sum(number * Fraction(1) / Fraction(sigma) ** 2 for sigma, number in charges))
    found = guarantee([Releases(sigma, number) for sigma, number in charges], DELTA)
    assert found.epsilon == pytest.approx(epsilon_of(mu, DELTA), rel=1e-9)


def test_replacement_costs_what_half_the_noise_costs():
    assert guarantee([Releases(8.0, 3)], DELTA, "replace").epsilon == guarantee([Releases(4.0, 3)], DELTA).epsilon


def test_sampling_costs_less_and_more_releases_cost_more():
    few, many = (guarantee([Releases(2.0, number, 0.1)], DELTA).epsilon for number in (10, 100))
    assert few < many < guarantee([Releases(2.0, 100)], DELTA).epsilon


def test_full_and_sampled_releases_are_accounted_together():
    full, sampled = Releases(10.0, 10), Releases(2.0, 100, 0.05)
    both = guarantee([full, sampled], DELTA)
    apart = [guarantee([one], DELTA).epsilon for one in (full, sampled)]
    assert max(apart) < both.epsilon < sum(apart) + 0.02
    assert both.method == "prv"


def test_nothing_released_costs_nothing():
    assert guarantee([], DELTA).epsilon == 0


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        (lambda: Releases(0.0), "sigma: got 0.0"),
        (lambda: Releases(math.nan), "sigma: got nan"),
        (lambda: Releases(1.0, 0), "number: got 0"),
        (lambda: Releases(1.0, 1, 1.5), "rate: got 1.5"),
        (lambda: guarantee([Releases(1.0)], 0.0), "delta: got 0.0"),
        (lambda: noise_for(-1.0, DELTA), "epsilon: got -1.0"),
        (lambda: noise_for(1.0, DELTA, 10, 0.0), "rate: got 0.0"),
        (lambda: guarantee([Releases(1.0, 1, 0.5)], DELTA, "replace"), "adjacency: got replace"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(wrong, says):
    with pytest.raises(UserError) as refused:
        wrong()
    assert str(refused.value).startswith(says)
    assert "valid:" in str(refused.value)
    assert "\n" not in str(refused.value)
