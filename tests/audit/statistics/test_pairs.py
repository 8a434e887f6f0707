"""Intervals over pairs of shadow runs: they cover though the two of a pair depend on each other."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from fedsim.audit.statistics.inputs import TooFew
from fedsim.audit.statistics.pairs import over_pairs, pair_means, pairs_p_value
from fedsim.audit.types import Estimate
from fedsim.types import UserError
from tests.reference.audit_statistics import within


def estimate(values: np.ndarray, level: float = 0.95, bounds: tuple[float, float] | None = None) -> Estimate:
    found = over_pairs(values, level, bounds)
    assert isinstance(found, Estimate)
    return found


def toy(rng: np.random.Generator, pairs: int, dependence: float) -> np.ndarray:
    """Targets with mean ½ whose two of a pair have this correlation."""
    own, shared = rng.normal(size=(pairs, 2)), rng.normal(size=(pairs, 1))
    part = math.sqrt(abs(dependence))
    shared = shared * np.array([1.0, math.copysign(1.0, dependence)])
    return (0.5 + 0.05 * (math.sqrt(1 - abs(dependence)) * own + part * shared)).reshape(-1)


def test_it_is_scipys_interval_of_the_pair_means():
    values = np.array([0.5, 0.6, 0.55, 0.61, 0.48, 0.5, 0.7, 0.52, 0.5, 0.58])
    means = values.reshape(5, 2).mean(1)
    found = estimate(values)
    assert np.allclose(pair_means(values), means)
    assert (found.low, found.high) == pytest.approx(stats.t.interval(0.95, 4, means.mean(), stats.sem(means)))
    assert (found.value, found.n, found.method) == (pytest.approx(values.mean()), 5, "t over pairs")
    assert pairs_p_value(values, 0.5) == pytest.approx(stats.ttest_1samp(means, 0.5, alternative="greater").pvalue)


@pytest.mark.parametrize("dependence", [-0.8, 0.0, 0.8])
@pytest.mark.parametrize(("pairs", "level"), [(5, 0.95), (8, 0.95), (8, 0.999)])
def test_it_covers_whatever_the_two_of_a_pair_have_to_do_with_each_other(dependence, pairs, level):
    rng, runs = np.random.default_rng(0), 250
    found = [estimate(toy(rng, pairs, dependence), level) for _ in range(runs)]
    assert within(sum(one.low <= 0.5 <= one.high for one in found), runs, level)


def test_single_targets_would_not_cover():
    rng, runs = np.random.default_rng(1), 250
    hits = 0
    for _ in range(runs):
        values = toy(rng, 8, 0.9)
        low, high = stats.t.interval(0.95, 15, values.mean(), stats.sem(values))
        hits += low <= 0.5 <= high
    assert not within(hits, runs, 0.95)


def test_p_values_are_uniform_where_nothing_leaks():
    rng = np.random.default_rng(2)
    found = [pairs_p_value(toy(rng, 6, 0.5), 0.5) for _ in range(300)]
    assert stats.kstest(found, "uniform").pvalue > 0.01


def test_too_few_pairs_is_a_result():
    few = over_pairs(np.full(8, 0.5))
    assert few == TooFew("pairs of targets", 4, 5)
    assert str(few) == "too few pairs of targets: 4, and 5 are needed"
    assert pairs_p_value(np.full(8, 0.5), 0.5) == few


def test_pairs_that_agree_say_so():
    plain, bounded = estimate(np.ones(10)), estimate(np.ones(10), bounds=(0.0, 1.0))
    assert (plain.low, plain.high) == (1.0, 1.0)
    assert "no width" in plain.method
    assert (bounded.low, bounded.high) == (pytest.approx(1 - math.sqrt(math.log(40) / 10)), 1.0)
    assert "Hoeffding" in bounded.method
    assert pairs_p_value(np.ones(10), 0.5) == 0.5**5
    assert pairs_p_value(np.full(10, 0.5), 0.5) == 1
    assert pairs_p_value(np.full(14, 0.1) + 0.2, 0.2) == 0.5**7  # equal but for rounding


def test_bounds_cut_the_interval():
    values = np.array([0.99, 0.98, 0.7, 0.99, 1.0, 1.0, 0.99, 0.97, 1.0, 0.98])
    assert estimate(values).high > 1
    assert estimate(values, bounds=(0.0, 1.0)).high == 1


def test_wrong_input():
    with pytest.raises(UserError, match="both targets of each pair"):
        over_pairs(np.zeros(11))
    with pytest.raises(UserError, match="9 of them finite"):
        over_pairs(np.r_[np.zeros(9), np.nan])
    with pytest.raises(UserError, match="bounds"):
        over_pairs(np.arange(10.0), bounds=(0.0, 1.0))
