"""Members among drawn records: exact counting, and raw records handed out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fedsim.audit.statistics.hypergeometric import drawn_members, members_law
from fedsim.audit.statistics.proportions import clopper_pearson
from fedsim.types import UserError
from tests.reference import audit_statistics as literal

LIGHT = settings(max_examples=25, deadline=None)
CLASS = st.integers(1, 9).flatmap(lambda n: st.tuples(st.integers(0, min(n, 4)), st.integers(0, n), st.just(n)))


@LIGHT
@given(st.lists(CLASS, min_size=1, max_size=3).filter(lambda found: sum(one[0] for one in found) > 0), st.data())
def test_it_counts_draws(classes, data):
    drawn, members, pool = (list(column) for column in zip(*classes, strict=True))
    least = sum(max(0, s - (n - m)) for s, m, n in classes)
    count = data.draw(st.integers(least, sum(min(s, m) for s, m, _ in classes)))
    found = drawn_members(count, drawn, members, pool)
    assert found.p == pytest.approx(float(literal.members_tail(count, drawn, members, pool)), rel=1e-9)
    law = members_law(drawn, members, pool)
    assert law.sum() == pytest.approx(1)
    assert found.expected == pytest.approx(float(law @ np.arange(len(law))))


def test_one_class_is_scipys_and_stays_exact_when_large():
    found = drawn_members(95, [100], [5000], [10_000])
    assert found.p == pytest.approx(stats.hypergeom.sf(94, 10_000, 5000, 100), rel=1e-8)
    assert found.share == clopper_pearson(95, 100)
    assert drawn_members(50, [50], [5000], [10_000]).p == pytest.approx(
        math.comb(5000, 50) / math.comb(10_000, 50), rel=1e-8
    )


def test_raw_records_handed_out_are_certain():
    found = drawn_members(100, [10] * 10, [500] * 10, [1000] * 10)
    assert found.expected == 50
    assert found.p == pytest.approx((math.comb(500, 10) / math.comb(1000, 10)) ** 10, rel=1e-6)
    assert drawn_members(50, [10] * 10, [500] * 10, [1000] * 10).p > 0.5


def test_p_is_valid_where_membership_is_drawn_within_classes():
    rng, runs, small = np.random.default_rng(0), 400, 0
    for _ in range(runs):  # a release that prefers class 0, of which 3 of 4 are members
        count = rng.hypergeometric(30, 10, 12) + rng.hypergeometric(10, 30, 4)
        small += drawn_members(int(count), [12, 4], [30, 10], [40, 40]).p <= 0.05
    assert small <= 0.05 * runs + 3 * math.sqrt(runs * 0.05 * 0.95)


@pytest.mark.parametrize(
    ("count", "drawn", "members", "pool"),
    [(3, [2], [5], [10]), (-1, [2], [5], [10]), (0, [0], [5], [10]), (1, [2], [0], [10]), (0, [8], [5], [10]),
     (1, [11], [5], [10]), (1, [2], [11], [10]), (1, [2, 2], [5], [10]), (1, [], [], [])],
)  # fmt: skip
def test_wrong_input(count, drawn, members, pool):
    with pytest.raises(UserError, match="valid"):
        drawn_members(count, drawn, members, pool)
