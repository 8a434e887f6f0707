"""Operating points: every threshold tried, ties, refusals, coverage, and the advantage of raw records."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import ndtr

from fedsim.audit.statistics.inputs import TooFew
from fedsim.audit.statistics.roc import (
    CalibratedPoint,
    OperatingPoint,
    advantage,
    calibrated_tpr,
    roc_points,
    tpr_at_fpr,
)
from fedsim.types import UserError
from tests.reference import audit_statistics as literal

LIGHT = settings(max_examples=25, deadline=None)


def point(inside: np.ndarray, outside: np.ndarray, alpha: float) -> OperatingPoint:
    found = tpr_at_fpr(inside, outside, alpha)
    assert isinstance(found, OperatingPoint)
    return found


@LIGHT
@given(st.integers(20, 60), st.integers(1, 40), st.integers(1, 30), st.sampled_from(["1/2", "3/5", "7/10"]), st.data())
def test_no_threshold_does_better_at_that_rate(n_out, n_in, values, alpha, data):
    outside = np.array(data.draw(st.lists(st.integers(0, values), min_size=n_out, max_size=n_out)), dtype=np.float64)
    inside = np.array(data.draw(st.lists(st.integers(0, values), min_size=n_in, max_size=n_in)), dtype=np.float64)
    share = Fraction(alpha)
    if n_out * share < 10:
        assert isinstance(tpr_at_fpr(inside, outside, float(share)), TooFew)
        return
    found = point(inside, outside, float(share))
    false, true = literal.tpr_at_fpr(inside.tolist(), outside.tolist(), share)
    assert (found.false_positive_rate, found.true_positive_rate.value) == (false, true)


def test_ties_at_the_threshold_are_no_members():
    outside = np.r_[np.ones(15), np.zeros(985)]  # 15 above, 10 allowed: none of the tied ones may count
    found = point(np.r_[np.ones(5), np.full(5, 2.0)], outside, 0.01)
    assert (found.threshold, found.false_positive_rate, found.true_positive_rate.value) == (1.0, 0.0, 0.5)


@pytest.mark.parametrize(("n_out", "alpha", "allowed"), [(100, 0.29, 29), (100, 0.57, 57), (1000, 0.01, 10)])
def test_rounding_of_alpha_takes_no_record_away(n_out, alpha, allowed):
    outside = np.arange(float(n_out))
    assert point(outside, outside, alpha).false_positive_rate == allowed / n_out


def test_too_few_non_members_is_a_result():
    few = tpr_at_fpr(np.zeros(9999), np.zeros(9999), 0.001)
    assert few == TooFew("non-members for FPR 0.001", 9999, 10_000)
    assert str(few) == "too few non-members for FPR 0.001: 9999, and 10000 are needed"
    assert isinstance(tpr_at_fpr(np.zeros(5), np.zeros(10_000), 0.001), OperatingPoint)
    assert isinstance(calibrated_tpr(np.zeros(5), np.zeros(999), 0.01, np.random.default_rng(0)), TooFew)


def test_calibrated_rates_cover_the_true_ones():
    rng, runs, shift = np.random.default_rng(0), 250, 1.5
    false, true = 0, 0
    for _ in range(runs):
        found = calibrated_tpr(rng.normal(shift, 1, 300), rng.normal(0, 1, 600), 0.05, rng)
        assert isinstance(found, CalibratedPoint)
        false += found.false_positive_rate.low <= ndtr(-found.threshold) <= found.false_positive_rate.high
        true += found.true_positive_rate.low <= ndtr(shift - found.threshold) <= found.true_positive_rate.high
    assert literal.at_least(false, runs, 0.95)
    assert literal.at_least(true, runs, 0.95)


def test_calibration_and_measurement_share_no_record():
    outside = np.arange(1000.0)
    found = calibrated_tpr(np.full(20, 2000.0), outside, 0.1, np.random.default_rng(1))
    assert isinstance(found, CalibratedPoint)
    assert found.false_positive_rate.n == 500
    half = np.random.default_rng(1).permutation(outside)
    assert (half[:500] > found.threshold).sum() == 50
    assert found.false_positive_rate.value == (half[500:] > found.threshold).mean()
    assert found.true_positive_rate.value == 1


def test_calibrated_p_value_is_fishers():
    rng = np.random.default_rng(2)
    found = calibrated_tpr(rng.normal(0.3, 1, 150), rng.normal(0, 1, 400), 0.05, rng)
    assert isinstance(found, CalibratedPoint)
    hits, alarms = (round(rate.value * rate.n) for rate in (found.true_positive_rate, found.false_positive_rate))
    table = [[hits, 150 - hits], [alarms, 200 - alarms]]
    assert found.p == pytest.approx(stats.fisher_exact(table, alternative="greater").pvalue, rel=1e-9)


def test_p_values_are_valid_where_nothing_leaks():
    rng, runs = np.random.default_rng(3), 200
    found = [calibrated_tpr(rng.normal(0, 1, 200), rng.normal(0, 1, 400), 0.05, rng) for _ in range(runs)]
    small = sum(isinstance(one, CalibratedPoint) and one.p <= 0.05 for one in found)
    assert small <= 0.05 * runs + 3 * math.sqrt(runs * 0.05 * 0.95)


def test_advantage_and_its_standard_error():
    inside, outside = np.r_[np.ones(30), np.zeros(70)], np.r_[np.ones(10), np.zeros(40)]
    found = advantage(inside, outside, 0.5)
    assert found.estimate.value == pytest.approx(0.1)
    assert found.standard_error == pytest.approx(math.sqrt(0.3 * 0.7 / 100 + 0.2 * 0.8 / 50))
    assert found.null_standard_error == pytest.approx(math.sqrt(1 / 100 + 1 / 50) / 2)
    assert found.p == pytest.approx(stats.fisher_exact([[30, 70], [10, 40]], alternative="greater").pvalue, rel=1e-9)
    assert advantage(inside, outside, 1.0).estimate.value == 0  # above, not at
    assert advantage(inside, outside, 1.0).p == 1


def test_newcombes_published_interval():
    inside, outside = np.r_[np.ones(56), np.zeros(14)], np.r_[np.ones(48), np.zeros(32)]
    found = advantage(inside, outside, 0.5).estimate  # Newcombe 1998, Table II, contrast (a), method 10
    assert (found.low, found.high) == pytest.approx((0.0524, 0.3339), abs=5e-5)


@pytest.mark.parametrize(("members", "error"), [(500, 3.16), (5000, 1.0), (25_000, 0.45), (50_000, 0.32)])
def test_null_standard_error_is_a_hundred_over_root_n_percent(members, error):
    found = advantage(np.zeros(members), np.zeros(members), 0.5)
    assert 100 * found.null_standard_error == pytest.approx(error, abs=0.005)


def test_complete_separation_keeps_an_interval():
    found = advantage(np.ones(20), np.zeros(20), 0.5)
    assert found.standard_error == 0
    assert found.estimate.value == 1
    assert 0.7 < found.estimate.low < 0.85


def test_advantage_covers_the_true_one():
    rng, runs, truth = np.random.default_rng(4), 250, float(ndtr(0.5) - ndtr(-0.5))
    found = [advantage(rng.normal(1, 1, 80), rng.normal(0, 1, 60), 0.5).estimate for _ in range(runs)]
    assert literal.within(sum(one.low <= truth <= one.high for one in found), runs, 0.95)


def test_a_published_subset_of_one_percent_has_an_advantage_of_one_percent():
    scores_in, scores_out = np.r_[np.ones(50), np.zeros(4950)], np.zeros(5000)
    found = advantage(scores_in, scores_out, 0.5)
    assert found.estimate.value == 0.01
    assert point(scores_in, scores_out, 0.002).true_positive_rate.value == 0.01
    assert found.p < 1e-14  # and yet it is one null standard error
    assert found.null_standard_error == pytest.approx(0.01)


@LIGHT
@given(st.integers(2, 40), st.integers(1, 40), st.integers(1, 12), st.integers(0, 2**31))
def test_points_of_the_plot_are_operating_points(n_out, n_in, values, seed):
    rng = np.random.default_rng(seed)
    inside, outside = rng.integers(0, values, n_in).astype(float), rng.integers(0, values, n_out).astype(float)
    false, true = roc_points(inside, outside)
    assert false[-1] == true[-1] == 1
    assert (np.diff(false) > 0).all()
    assert (np.diff(true) >= 0).all()
    assert (false > 0).all()
    for x, y in zip(false.tolist(), true.tolist(), strict=True):
        assert literal.tpr_at_fpr(inside.tolist(), outside.tolist(), Fraction(round(x * n_out), n_out)) == (
            pytest.approx(x), pytest.approx(y),
        )  # fmt: skip


def test_many_records_give_few_points():
    rng = np.random.default_rng(5)
    false, true = roc_points(rng.normal(1, 1, 5000), rng.normal(0, 1, 5000), most=100)
    assert 50 < len(false) <= 100
    assert false[0] == 1 / 5000
    assert (true >= false - 0.02).all()


def test_wrong_input():
    for alpha in (0.0, 1.0, -1.0):
        with pytest.raises(UserError, match="alpha"):
            tpr_at_fpr(np.zeros(5), np.zeros(5), alpha)
    with pytest.raises(UserError, match="scores_in"):
        advantage(np.array([np.nan]), np.zeros(3), 0.0)
