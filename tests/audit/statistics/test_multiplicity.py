"""Holm's p-values are those of closed testing."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.audit.statistics.multiplicity import bonferroni, holm
from fedsim.types import UserError
from tests.reference import audit_statistics as literal

LIGHT = settings(max_examples=25, deadline=None)
P_VALUES = st.lists(st.floats(0, 1), max_size=7).map(lambda values: np.array(values, dtype=np.float64))


@LIGHT
@given(P_VALUES)
def test_holm_is_closed_testing(p_values):
    assert holm(p_values) == pytest.approx(np.array(literal.holm(p_values.tolist())), abs=1e-12)


@LIGHT
@given(P_VALUES)
def test_holm_lies_between_raw_and_bonferroni_and_keeps_the_order(p_values):
    adjusted = holm(p_values)
    assert (adjusted >= p_values).all()
    assert (adjusted <= bonferroni(p_values) + 1e-15).all()
    assert (np.diff(adjusted[np.argsort(p_values, kind="stable")]) >= 0).all()


def test_a_known_case():
    assert holm(np.array([0.01, 0.04, 0.03, 0.005])) == pytest.approx(np.array([0.03, 0.06, 0.06, 0.02]))
    assert bonferroni(np.array([0.01, 0.4])) == pytest.approx(np.array([0.02, 0.8]))


def test_any_false_rejection_is_as_seldom_as_promised():
    rng, runs = np.random.default_rng(0), 2000
    shared = rng.random((runs, 1))
    p_values = np.where(rng.random((runs, 4)) < 0.5, shared, rng.random((runs, 4)))  # they depend on each other
    wrong = sum(bool((holm(row) <= 0.05).any()) for row in p_values)
    assert wrong <= 0.05 * runs + 3 * np.sqrt(runs * 0.05 * 0.95)


def test_wrong_input():
    for bad in (np.array([0.5, 1.5]), np.array([-0.1]), np.array([np.nan])):
        with pytest.raises(UserError, match="p_values"):
            holm(bad)
        with pytest.raises(UserError, match="p_values"):
            bonferroni(bad)
