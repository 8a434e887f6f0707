"""Smallest effects: what is called detectable is found in four of five simulated audits, or by exact sums."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtri, stdtr

from fedsim.audit.statistics.auc import auc
from fedsim.audit.statistics.power import (
    auc_variance,
    critical_counts,
    detectable_advantage,
    detectable_auc,
    detectable_mean,
    detectable_proportion,
    required_pairs,
    required_records,
    required_trials,
)
from fedsim.types import UserError
from tests.reference.audit_statistics import binomial_tail

LIGHT = settings(max_examples=25, deadline=None)


@pytest.mark.parametrize(("n", "m", "significance"), [(60, 60, 0.05), (200, 50, 0.01)])
def test_a_detectable_auc_is_found_in_four_of_five(n, m, significance):
    rng, runs = np.random.default_rng(0), 800
    area = detectable_auc(n, m, significance)
    assert area is not None
    shift = math.sqrt(2) * float(ndtri(area))
    limit = 0.5 + float(ndtri(1 - significance)) * math.sqrt((n + m + 1) / (12 * n * m))
    found = np.mean([auc(rng.normal(shift, 1, n), rng.normal(0, 1, m)) > limit for _ in range(runs)])
    assert found == pytest.approx(0.8, abs=3 * math.sqrt(0.16 / runs) + 0.01)  # 0.01: the normal law


def test_the_variance_at_one_half_is_that_of_the_rank_test():
    assert auc_variance(0.5, 70, 30) == pytest.approx(101 / (12 * 70 * 30), rel=0.02)


@pytest.mark.parametrize("pairs", [5, 8, 32])
def test_a_detectable_mean_is_found_in_four_of_five(pairs):
    rng, runs, deviation = np.random.default_rng(1), 4000, 0.03
    shift = detectable_mean(deviation, pairs)
    means = rng.normal(shift, deviation, (runs, pairs))
    t = means.mean(1) / (means.std(1, ddof=1) / math.sqrt(pairs))
    found = float((stdtr(pairs - 1, -t) <= 0.05).mean())
    assert found == pytest.approx(0.8, abs=3 * math.sqrt(0.16 / runs))


@LIGHT
@given(st.integers(1, 80), st.floats(0.01, 0.6), st.sampled_from([0.05, 0.001]))
def test_a_detectable_proportion_by_sums(n, chance, significance):
    count = int(critical_counts(np.array([n]), chance, significance)[0])
    tails = [binomial_tail(c, n, chance) for c in range(n + 2)]
    assert count == next(c for c in range(1, n + 2) if tails[c] <= significance)
    share = detectable_proportion(n, chance, significance)
    if count > n:
        assert share is None
    else:
        assert share is not None
        assert binomial_tail(count, n, share) == pytest.approx(0.8, abs=1e-6)


@pytest.mark.parametrize(("share", "chance"), [(0.7, 0.5), (0.1, 0.01), (0.9, 0.05), (1.0, 0.01), (1.0, 0.9)])
def test_required_trials_are_enough_from_there_on_and_not_before(share, chance):
    needed = required_trials(share, chance)

    def power(n: int) -> float:
        count = next(c for c in range(n + 2) if binomial_tail(c, n, chance) <= 0.05)
        return binomial_tail(count, n, share)

    assert all(power(n) >= 0.8 - 1e-12 for n in range(needed, needed + 40))
    assert needed == 1 or power(needed - 1) < 0.8


@pytest.mark.parametrize("area", [0.52, 0.6, 0.9])
def test_required_records_and_detectable_auc_agree(area):
    needed = required_records(area)
    found, before = detectable_auc(needed, needed), detectable_auc(needed - 1, needed - 1)
    assert found is not None
    assert found <= area
    assert before is None or before > area


@pytest.mark.parametrize("effect", [0.01, 0.05, 1.0])
def test_required_pairs_and_detectable_mean_agree(effect):
    needed = required_pairs(effect, 0.03)
    assert detectable_mean(0.03, needed) <= effect
    assert needed == 2 or detectable_mean(0.03, needed - 1) > effect


def test_more_records_find_less():
    found = [detectable_auc(n, n) for n in (10, 100, 1000, 10_000)]
    assert None not in found
    assert sorted(found, reverse=True) == found  # pyright: ignore[reportArgumentType]
    assert detectable_mean(0.1, 10) > detectable_mean(0.1, 40)
    assert detectable_mean(0.0, 10) == 0


def test_none_where_nothing_would_be_found():
    assert detectable_auc(1, 1) is None
    assert detectable_proportion(1, 0.5) is None
    assert detectable_advantage(1, 1) is None


def test_a_detectable_advantage():
    # z₀.₉₅ + z₀.₈ = 2.4865; at 5,000 + 5,000 the null standard error is 1 %
    assert detectable_advantage(5000, 5000) == pytest.approx(0.024865, abs=1e-6)
    rng, runs, n = np.random.default_rng(2), 2000, 400
    found = detectable_advantage(n, n)
    assert found is not None
    hits, alarms = rng.binomial(n, 0.5 + found / 2, runs) / n, rng.binomial(n, 0.5 - found / 2, runs) / n
    limit = float(ndtri(0.95)) * math.sqrt(1 / n + 1 / n) / 2
    assert float((hits - alarms > limit).mean()) == pytest.approx(0.8, abs=0.04)


def test_wrong_input():
    for call in (
        lambda: detectable_auc(0, 5),
        lambda: detectable_auc(5, 5, 0.0),
        lambda: detectable_auc(5, 5, 0.05, 0.05),
        lambda: detectable_mean(-1.0, 5),
        lambda: detectable_mean(1.0, 1),
        lambda: detectable_proportion(0, 0.5),
        lambda: detectable_proportion(5, 1.0),
        lambda: detectable_advantage(0, 1),
        lambda: required_pairs(0.0, 1.0),
        lambda: required_pairs(1e-9, 1.0),
        lambda: required_records(0.5),
        lambda: required_trials(0.5, 0.5),
        lambda: required_trials(0.50001, 0.5),
    ):
        with pytest.raises(UserError):
            call()
