"""Intervals against published tables and against scipy's own."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedsim.training.intervals import bounded_ci, difference_ci, mean_ci, paired_difference, wilson

LIGHT = settings(max_examples=25, deadline=None)
POINTS = st.lists(st.floats(0, 1), min_size=2, max_size=8).filter(lambda points: max(points) - min(points) > 1e-6)


@LIGHT
@given(POINTS, st.sampled_from([0.9, 0.95, 0.99]))
def test_interval_is_scipys(points: list[float], level: float) -> None:
    mean, interval = mean_ci(points, level)
    expected = stats.t.interval(level, len(points) - 1, loc=sum(points) / len(points), scale=stats.sem(points))
    assert mean == pytest.approx(sum(points) / len(points))
    assert interval == pytest.approx(expected, abs=1e-9)


def test_interval_of_known_numbers() -> None:
    # t₀.₉₇₅ with 1 and 4 degrees of freedom is 12.7062 and 2.7764 in every table
    assert mean_ci([0.4, 0.6])[1] == pytest.approx((0.5 - 12.7062 * 0.1, 0.5 + 12.7062 * 0.1), abs=1e-4)
    deviation = math.sqrt(10 / 4)
    half = 2.7764 * deviation / math.sqrt(5)
    assert mean_ci([1.0, 2.0, 3.0, 4.0, 5.0])[1] == pytest.approx((3 - half, 3 + half), abs=1e-3)
    assert mean_ci([0.7]) == (0.7, None)


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),  # Newcombe, Statistics in Medicine 17, 1998, Table I, method 3
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_is_newcombes_table(right: int, n: int, low: float, high: float) -> None:
    assert wilson(right, n) == pytest.approx((low, high), abs=5e-5)


@LIGHT
@given(st.integers(1, 500), st.data())
def test_wilson_is_scipys_and_symmetric(n: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, n))
    low, high = wilson(right, n)
    expected = stats.binomtest(right, n).proportion_ci(method="wilson")
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)
    assert wilson(n - right, n) == pytest.approx((1 - high, 1 - low), abs=1e-9)


@LIGHT
@given(POINTS, POINTS)
def test_the_difference_of_two_samples_is_welchs(left: list[float], right: list[float]) -> None:
    found, interval = difference_ci(left, right)
    expected = stats.ttest_ind(left, right, equal_var=False).confidence_interval(0.95)
    assert found == pytest.approx(sum(left) / len(left) - sum(right) / len(right), abs=1e-12)
    assert interval == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_a_difference_needs_two_points_on_either_side() -> None:
    assert difference_ci([0.5], [0.2, 0.4]) == (pytest.approx(0.2), None)
    assert difference_ci([0.5, 0.5], [0.25, 0.25]) == (0.25, (0.25, 0.25))


def literal_paired(both: int, first: int, second: int, neither: int) -> tuple[float, float]:
    """Newcombe's method 10, letter by letter."""
    e, f, g, h = both, first, second, neither
    n = e + f + g + h
    l2, u2 = wilson(e + f, n)
    l3, u3 = wilson(e + g, n)
    if (e + f) * (g + h) * (e + g) * (f + h) == 0:
        phi = 0.0
    else:
        c = e * h - f * g
        c = c if c <= 0 else max(c - n / 2, 0)
        phi = c / math.sqrt((e + f) * (g + h) * (e + g) * (f + h))
    dl2, du2, dl3, du3 = (e + f) / n - l2, u2 - (e + f) / n, (e + g) / n - l3, u3 - (e + g) / n
    theta = (f - g) / n
    delta = math.sqrt(dl2**2 - 2 * phi * dl2 * du3 + du3**2)
    epsilon = math.sqrt(du2**2 - 2 * phi * du2 * dl3 + dl3**2)
    return theta - delta, theta + epsilon


@pytest.mark.parametrize("table", [(36, 12, 2, 0), (5, 3, 1, 40), (0, 20, 0, 80), (10, 0, 0, 90), (0, 0, 0, 7)])
def test_a_paired_difference_is_newcombes(table: tuple[int, int, int, int]) -> None:
    difference, interval = paired_difference(*table)
    assert difference == pytest.approx((table[1] - table[2]) / sum(table))
    assert interval == pytest.approx(literal_paired(*table))
    both, first, second, neither = table
    swapped, other = paired_difference(both, second, first, neither)
    assert swapped == pytest.approx(-difference)
    assert other == pytest.approx((-interval[1], -interval[0]))


def test_a_paired_difference_covers() -> None:
    rng, shares = np.random.default_rng(0), np.array([0.1, 0.3, 0.05, 0.55])
    held = 0
    for counts in rng.multinomial(120, shares, size=1000):
        low, high = paired_difference(*map(int, counts))[1]
        held += low <= shares[1] - shares[2] <= high
    assert 0.93 <= held / 1000 <= 0.975


@pytest.mark.parametrize(("right", "n"), [(0, 2), (5, 5), (0, 9), (12, 12)])
def test_all_or_nothing_is_clopper_and_pearsons(right: int, n: int) -> None:
    mean, interval = bounded_ci([float(right > 0)] * n)
    exact = stats.binomtest(right, n).proportion_ci(method="exact")
    assert mean == (right > 0)
    assert interval == pytest.approx((exact.low, exact.high), abs=1e-9)


@LIGHT
@given(st.lists(st.floats(0, 1), min_size=2, max_size=12))
def test_a_bounded_interval_solves_its_equation_and_stays_in_range(points: list[float]) -> None:
    mean, interval = bounded_ci(points)
    assert interval is not None
    low, high = interval
    assert 0 <= low <= mean <= high <= 1
    for end in interval:
        if 1e-12 < mean < 1 - 1e-12 and 1e-9 < end < 1 - 1e-9:
            apart = mean * math.log(mean / end) + (1 - mean) * math.log((1 - mean) / (1 - end))
            assert len(points) * apart == pytest.approx(math.log(40), rel=1e-3)
    assert bounded_ci([1 - point for point in points])[1] == pytest.approx((1 - high, 1 - low), abs=1e-9)


def test_a_bounded_interval_covers_areas_of_one_attacker_among_eight() -> None:
    rng, held = np.random.default_rng(0), 0
    for _ in range(500):
        areas = rng.binomial(7, rng.choice([0.2, 1.0], size=5, p=[0.1, 0.9])) / 7
        low, high = bounded_ci(areas.tolist())[1] or (0.0, 0.0)
        held += low <= 0.92 <= high
    assert held / 500 >= 0.95


def test_what_no_bounded_interval_is_of() -> None:
    assert bounded_ci([0.3]) == (0.3, None)
    with pytest.raises(ValueError, match=r"got points in -0.5..1.0"):
        bounded_ci([1.0, -0.5])
