"""The one-run bound: sums of binomials, tabled values, and an honest mechanism that it never calls a liar."""

from __future__ import annotations

import bisect
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import expit

from fedsim.audit.statistics.one_run import (
    Guesses,
    contradicts,
    largest_bound,
    largest_refuted,
    lower_bound,
    p_value,
)
from fedsim.types import UserError
from tests.reference import audit_statistics as literal

LIGHT = settings(max_examples=40, deadline=None)


@st.composite
def guesses(draw: st.DrawFn, least: int = 1, most: int = 150) -> Guesses:
    canaries = draw(st.integers(least, most))
    made = draw(st.integers(0, canaries))
    return Guesses(canaries, made, draw(st.integers(0, made)))


@LIGHT
@given(guesses(), st.floats(0, 6), st.sampled_from([0.0, 1e-6, 1e-3, 0.1, 0.9]))
def test_p_is_the_sum_of_binomials(found, epsilon, delta):
    expected = literal.one_run_p(found.canaries, found.made, found.right, epsilon, delta)
    assert p_value(found, epsilon, delta) == pytest.approx(expected, rel=1e-7, abs=1e-13)


@LIGHT
@given(guesses(), st.floats(0, 6), st.floats(0, 6), st.sampled_from([0.0, 1e-5, 1e-3]))
def test_p_rises_in_epsilon_and_falls_in_right_guesses(found, one, other, delta):
    delta = min(delta, 1 / (2 * found.canaries))
    assert p_value(found, min(one, other), delta) <= p_value(found, max(one, other), delta) + 1e-12
    if found.right < found.made:
        better = Guesses(found.canaries, found.made, found.right + 1)
        assert p_value(better, one, delta) <= p_value(found, one, delta) + 1e-12


@LIGHT
@given(guesses(least=3), st.sampled_from([0.0, 1e-5, 1e-3]))
def test_the_bound_is_where_p_crosses_and_stays_below_the_most_there_is(found, delta):
    bound = lower_bound(found, delta)
    assert bound <= math.log(found.canaries / 3) + 0.1
    assert bound <= largest_bound(found.canaries, delta) + 1e-8
    if bound > 0:
        assert p_value(found, bound, delta) <= 0.05
        assert p_value(found, bound + 1e-6, delta) > 0.05
    else:
        assert p_value(found, 1e-6, delta) > 0.05
    assert lower_bound(found, delta, 0.001) <= bound


@pytest.mark.parametrize(
    ("canaries", "most"),
    [(50, 2.78), (100, 3.49), (250, 4.41), (500, 5.10), (1000, 5.78), (2000, 6.45), (5000, 7.28)],
)
def test_the_most_that_can_be_proved(canaries, most):
    assert largest_bound(canaries, 1e-5) == pytest.approx(most, abs=0.005)
    without = math.log(0.05 ** (1 / canaries) / (1 - 0.05 ** (1 / canaries)))  # q^m = α
    assert largest_bound(canaries, 0.0) == pytest.approx(without, abs=1e-7)


@pytest.mark.parametrize(("made", "bounds"), [(100, (0.47, 0.96, 1.63, 3.47)), (1000, (0.73, 1.25, 2.02, 5.78))])
def test_the_bound_by_accuracy(made, bounds):
    found = [lower_bound(Guesses(1000, made, round(share * made)), 1e-5) for share in (0.7, 0.8, 0.9, 1.0)]
    assert found == pytest.approx(list(bounds), abs=0.005)


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("canaries", [30, 200, 1000])
@pytest.mark.parametrize("significance", [0.05, 0.001])
def test_honest_randomised_response_is_contradicted_no_oftener_than_promised(epsilon, canaries, significance):
    """Each guess is right with probability q, independently: the chance of a contradiction is a binomial tail."""
    q = float(expit(epsilon))
    for delta in (0.0, 1e-5):

        def refuted(right: int, delta: float = delta) -> bool:
            return contradicts(Guesses(canaries, canaries, right), epsilon, delta, significance)

        fewest = bisect.bisect_left(range(canaries + 1), True, key=refuted)
        assert literal.binomial_tail(fewest, canaries, q) <= significance  # 0 where not even all right are enough
        if delta == 0:  # and the level is used up
            assert literal.binomial_tail(fewest - 1, canaries, q) > significance


def test_with_a_large_delta_the_bound_is_still_refuted():
    found = Guesses(1000, 1000, 990)
    bound = lower_bound(found, 0.01)  # 2mδ = 20
    assert 0 < bound < lower_bound(found, 0.0)
    assert p_value(found, bound, 0.01) <= 0.05


def test_largest_refuted_starts_from_what_is_known():
    assert largest_refuted(lambda size: size <= 3.7) == pytest.approx(3.7, abs=1e-8)
    assert largest_refuted(lambda size: 1 < size <= 3.7) == 0
    assert largest_refuted(lambda size: 1 < size <= 3.7, 2.0) == pytest.approx(3.7, abs=1e-8)
    assert largest_refuted(lambda size: size <= 3.7) <= 3.7


def test_guessing_nothing_or_wrong_proves_nothing():
    for found in (Guesses(10, 0, 0), Guesses(10, 10, 0), Guesses(10, 10, 5)):
        assert lower_bound(found, 1e-5) == 0


def test_wrong_input():
    for counts in ((10, 11, 5), (10, 5, 6), (10, 5, -1), (0, 0, 0)):
        with pytest.raises(UserError, match="guesses"):
            Guesses(*counts)
    for epsilon, delta in ((1.0, 1.0), (1.0, -0.1), (-1.0, 0.0), (math.nan, 0.0)):
        with pytest.raises(UserError, match="claim: got epsilon"):
            p_value(Guesses(10, 5, 5), epsilon, delta)
    for significance in (0.0, 1.0):
        with pytest.raises(UserError, match="significance"):
            lower_bound(Guesses(10, 5, 5), 0.0, significance)
