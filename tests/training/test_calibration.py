"""A threshold from clean cases: its rank, its false-positive rate over many calibrations, what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.training.calibration import least, threshold
from fedsim.types import UserError


def test_the_threshold_is_an_order_statistic():
    scores = np.array([3.0, 1.0, 2.0, 9.0, 5.0, 4.0, 7.0, 6.0, 8.0])
    assert threshold(scores, 0.1) == 9.0  # ⌈0.9 · 10⌉ = 9th
    assert threshold(scores, 0.2) == 8.0
    assert threshold(scores, 0.5) == 5.0


@given(st.integers(1, 60), st.sampled_from([0.01, 0.05, 0.1, 0.25, 0.5, 0.9]))
def test_no_threshold_is_given_that_cannot_keep_the_rate(n, rate):
    """A further clean case is above the i-th of n with probability (n + 1 − i)/(n + 1)."""
    scores = np.arange(n, dtype=float)
    assert (n < least(rate)) == (n + 1 < round(1 / rate, 9))
    if n < least(rate):
        with pytest.raises(UserError, match="at least"):
            threshold(scores, rate)
        return
    place = threshold(scores, rate) + 1  # the rank, from 1
    assert (n + 1 - place) / (n + 1) <= rate + 1e-9
    assert (n + 2 - place) / (n + 1) > rate - 1e-9  # one rank less would not


def test_the_rate_holds_whatever_the_law():
    rng = np.random.default_rng(0)
    flagged = 0
    for _ in range(4000):
        scores = rng.standard_cauchy(20)
        flagged += rng.standard_cauchy() > threshold(scores, 0.1)
    assert flagged / 4000 == pytest.approx(2 / 21, abs=0.015)  # ⌈0.9 · 21⌉ = 19: two of 21 ranks lie above


@pytest.mark.parametrize(
    ("scores", "rate", "said"),
    [([1.0] * 9, 0.0, "0 < rate < 1"), ([1.0] * 9, 1.0, "0 < rate < 1"), ([1.0] * 8, 0.1, "at least 9"),
     ([1.0] * 8 + [float("nan")], 0.1, "not a number")],
)  # fmt: skip
def test_what_cannot_be_is_told(scores, rate, said):
    with pytest.raises(UserError, match=said):
        threshold(np.array(scores), rate)
