"""Power on the toy: means once measured elsewhere, no false alarm, and a false claim that is found."""

from __future__ import annotations

import numpy as np
import pytest

from fedsim.audit.statistics.one_run import lower_bound
from fedsim.audit.statistics.one_run_power import audit_toy
from fedsim.privacy.accountant import epsilon_of
from fedsim.types import UserError


@pytest.mark.parametrize(
    ("sigma", "claim", "mean"), [(0.5, 10.0, 3.6), (1.0, 4.38, 1.7), (2.0, 1.99, 0.65), (4.0, 0.93, 0.31)]
)
def test_mean_bounds_of_two_thousand_canaries(sigma, claim, mean):
    """`mean` is of four runs, so known to half a deviation of one."""
    assert epsilon_of(1 / sigma, 1e-5) == pytest.approx(claim, abs=0.005)
    found = audit_toy(2000, sigma, 200, 1e-5, np.random.default_rng(0), runs=60)
    deviation = float(found.bounds.std(ddof=1))
    assert found.mean == pytest.approx(mean, abs=3 * deviation * (1 / 4 + 1 / 60) ** 0.5)
    assert found.mean < claim


def test_a_true_claim_is_not_contradicted():
    found = audit_toy(2000, 1.0, 200, 1e-5, np.random.default_rng(1), runs=300)
    assert found.contradicted(epsilon_of(1.0, 1e-5), 1e-5).value == 0
    assert (found.bounds > epsilon_of(1.0, 1e-5)).sum() == 0


def test_a_false_claim_is_contradicted_where_the_gap_is_wide():
    found = audit_toy(2000, 0.5, 200, 1e-5, np.random.default_rng(2), runs=40)
    assert found.contradicted(epsilon_of(1 / 4, 1e-5), 1e-5).value == 1  # claims σ = 4, is σ = ½
    near = found.contradicted(epsilon_of(1 / 0.6, 1e-5), 1e-5)
    assert near.value == 0  # σ = 0.6 for ½: a pass proves no tightness
    assert near.n == 40


def test_bounds_are_those_of_the_guesses():
    found = audit_toy(300, 0.7, 30, 1e-5, np.random.default_rng(3), 0.01, runs=20)
    assert found.bounds.tolist() == [lower_bound(one, 1e-5, 0.01) for one in found.guesses]
    again = audit_toy(300, 0.7, 30, 1e-5, np.random.default_rng(3), 0.01, runs=20)
    assert found.guesses == again.guesses
    assert all(one.made == 60 and one.canaries == 300 for one in found.guesses)


def test_wrong_input():
    for canaries, sigma, guessed, runs in ((0, 1.0, 1, 5), (10, 0.0, 1, 5), (10, 1.0, 6, 5), (10, 1.0, 1, 0)):
        with pytest.raises(UserError):
            audit_toy(canaries, sigma, guessed, 1e-5, np.random.default_rng(0), runs=runs)
