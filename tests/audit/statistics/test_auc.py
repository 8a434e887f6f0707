"""The AUC and DeLong's interval: the double loop, coverage, and what happens where there is no variance."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import ndtr
from sklearn.metrics import roc_auc_score

from fedsim.audit.statistics.auc import auc, delong
from fedsim.audit.statistics.proportions import clopper_pearson
from fedsim.types import UserError
from tests.reference import audit_statistics as literal

LIGHT = settings(max_examples=25, deadline=None)
TIED = st.lists(st.integers(-5, 5), min_size=2, max_size=15).map(lambda values: np.array(values, dtype=np.float64))


@LIGHT
@given(TIED, TIED)
def test_it_is_the_double_loop_and_sklearns(inside, outside):
    labels = np.r_[np.ones(len(inside)), np.zeros(len(outside))]
    assert auc(inside, outside) == pytest.approx(literal.auc(inside.tolist(), outside.tolist()), abs=1e-12)
    assert auc(inside, outside) == pytest.approx(roc_auc_score(labels, np.r_[inside, outside]), abs=1e-12)
    assert auc(outside, inside) == pytest.approx(1 - auc(inside, outside), abs=1e-12)


@LIGHT
@given(TIED, TIED, st.sampled_from([lambda x: 3 * x - 7, np.exp, lambda x: x**3, np.arctan]))
def test_only_the_order_of_scores_counts(inside, outside, rising):
    assert auc(rising(inside), rising(outside)) == auc(inside, outside)
    assert delong(rising(inside), rising(outside)) == delong(inside, outside)


@LIGHT
@given(TIED, TIED)
def test_the_interval_is_delongs_variance_on_the_logit_scale(inside, outside):
    found = delong(inside, outside)
    variance = literal.auc_variance(inside.tolist(), outside.tolist())
    if found.method != "DeLong, logit scale":
        assert variance == pytest.approx(0, abs=1e-15) or found.value in (0, 1)
        return
    area = found.value
    half = 1.959963985 * math.sqrt(variance) / (area * (1 - area))
    odds = area / (1 - area)
    assert found.low == pytest.approx(1 / (1 + math.exp(half) / odds), abs=1e-7)
    assert found.high == pytest.approx(1 / (1 + math.exp(-half) / odds), abs=1e-7)


@pytest.mark.parametrize("shift", [0.0, 1.0, 2.0])
def test_it_covers_the_true_area(shift):
    rng, runs, truth = np.random.default_rng(1), 250, float(ndtr(shift / math.sqrt(2)))
    found = [delong(rng.normal(shift, 1, 100), rng.normal(0, 1, 120)) for _ in range(runs)]
    assert literal.within(sum(one.low <= truth <= one.high for one in found), runs, 0.95)


def test_a_wider_level_is_wider():
    rng = np.random.default_rng(2)
    inside, outside = rng.normal(1, 1, 30), rng.normal(0, 1, 30)
    ends = [delong(inside, outside, level) for level in (0.8, 0.95, 0.999)]
    assert ends[0].low > ends[1].low > ends[2].low
    assert ends[0].high < ends[1].high < ends[2].high


def test_complete_separation_is_an_exact_interval():
    low, high = np.arange(20.0), np.arange(100.0, 130.0)
    right, wrong = delong(high, low), delong(low, high)
    assert (right.value, right.low, right.high) == (1.0, clopper_pearson(20, 20).low, 1.0)
    assert (wrong.value, wrong.low, wrong.high) == (0.0, 0.0, clopper_pearson(0, 20).high)
    assert right.n == 20
    assert "Clopper-Pearson" in right.method
    assert "separation" in right.method


def test_complete_separation_seldom_misses():
    """P[separated, and the interval misses] ≤ 2.5 %, at shifts where separation is likely."""
    rng, runs = np.random.default_rng(3), 200
    for shift in (2.0, 3.0):
        truth = float(ndtr(shift / math.sqrt(2)))
        found = [delong(rng.normal(shift, 1, 15), rng.normal(0, 1, 15)) for _ in range(runs)]
        assert sum(one.value == 1 and one.low > truth for one in found) <= 0.025 * runs


@pytest.mark.parametrize(("inside", "outside"), [(np.zeros(50), np.zeros(40)), (np.array([1.5]), np.arange(4.0))])
def test_without_a_variance_the_bound_is_hoeffdings(inside, outside):
    found = delong(inside, outside)
    n = min(len(inside), len(outside))
    half = math.sqrt(math.log(2 / 0.05) / (2 * n))
    assert found.value == 0.5
    assert (found.low, found.high) == pytest.approx((max(0, 0.5 - half), min(1, 0.5 + half)))
    assert "Hoeffding" in found.method
    assert found.n == n


def test_wrong_input():
    with pytest.raises(UserError, match="scores_in: got 0"):
        auc(np.zeros(0), np.zeros(3))
    with pytest.raises(UserError, match="scores_out: got 3 scores, 1 of them NaN"):
        delong(np.zeros(2), np.array([0.0, np.nan, 1.0]))
    with pytest.raises(UserError, match="level"):
        delong(np.zeros(2), np.zeros(2), 95.0)
