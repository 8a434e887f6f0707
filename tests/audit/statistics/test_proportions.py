"""Exact intervals of shares: published values, scipy's own, and coverage."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedsim.audit.statistics.proportions import (
    binomial_p_value,
    clopper_pearson,
    clopper_pearson_lower,
    clopper_pearson_upper,
    wilson_score,
)
from fedsim.training.intervals import wilson
from fedsim.types import UserError
from tests.reference.audit_statistics import at_least, binomial_tail

LIGHT = settings(max_examples=25, deadline=None)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        (81, 263, 0.2527, 0.3676),  # Newcombe, Statistics in Medicine 17, 1998, Table I, method 5
        (15, 148, 0.0578, 0.1617),
        (0, 20, 0.0, 0.1684),
        (1, 29, 0.0009, 0.1776),
        (0, 100, 0.0, 0.0362),
        (10, 1000, 0.0048, 0.0183),
        (13, 14, 0.661, 0.998),
        (5, 10, 0.187, 0.813),
    ],
)
def test_published_values(successes, n, low, high):
    found = clopper_pearson(successes, n)
    assert (found.low, found.high) == pytest.approx((low, high), abs=5e-4 if n in (10, 14) else 5e-5)
    assert (found.value, found.n, found.level, found.method) == (successes / n, n, 0.95, "Clopper-Pearson")


@LIGHT
@given(st.integers(1, 300), st.sampled_from([0.5, 0.9, 0.95, 0.999]), st.data())
def test_it_is_scipys(n, level, data):
    successes = data.draw(st.integers(0, n))
    found = clopper_pearson(successes, n, level)
    expected = stats.binomtest(successes, n).proportion_ci(level, method="exact")
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    lower = stats.binomtest(successes, n, alternative="greater").proportion_ci(level, method="exact")
    upper = stats.binomtest(successes, n, alternative="less").proportion_ci(level, method="exact")
    assert clopper_pearson_lower(successes, n, level).low == pytest.approx(lower.low, abs=1e-9)
    assert clopper_pearson_lower(successes, n, level).high == 1
    assert clopper_pearson_upper(successes, n, level).high == pytest.approx(upper.high, abs=1e-9)
    assert clopper_pearson_upper(successes, n, level).low == 0


@pytest.mark.parametrize("n", [7, 40])
def test_it_covers_at_every_share(n):
    ends = [(found.low, found.high) for found in (clopper_pearson(s, n) for s in range(n + 1))]
    for share in np.linspace(0.005, 0.995, 67):
        law = stats.binom.pmf(np.arange(n + 1), n, share)
        assert sum(p for p, (low, high) in zip(law, ends, strict=True) if low <= share <= high) >= 0.95


def test_it_covers_in_simulation():
    rng = np.random.default_rng(0)
    hits = [
        clopper_pearson(int(s), 60).low <= 0.1 <= clopper_pearson(int(s), 60).high for s in rng.binomial(60, 0.1, 400)
    ]
    assert at_least(sum(hits), 400, 0.95)


def test_wilsons_is_that_of_training():
    found = wilson_score(15, 148)
    assert (found.low, found.high) == wilson(15, 148)
    assert wilson_score(0, 20).low == 0
    assert wilson_score(20, 20).high == 1


@LIGHT
@given(st.integers(1, 60), st.floats(0.01, 0.99), st.data())
def test_p_value_is_the_sum_of_binomials(n, chance, data):
    successes = data.draw(st.integers(0, n))
    assert binomial_p_value(successes, n, chance) == pytest.approx(binomial_tail(successes, n, chance), rel=1e-9)


@pytest.mark.parametrize(
    ("successes", "n", "level"), [(3, 2, 0.95), (-1, 2, 0.95), (0, 0, 0.95), (1, 2, 1.0), (1, 2, 0.4)]
)
def test_wrong_input(successes, n, level):
    with pytest.raises(UserError, match="valid"):
        clopper_pearson(successes, n, level)
    with pytest.raises(UserError, match="valid"):
        wilson_score(successes, n, level)


def test_wrong_chance():
    with pytest.raises(UserError, match="chance: got 0"):
        binomial_p_value(1, 2, 0.0)
